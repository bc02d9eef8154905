"""Packed documents, interpreted on a CPU: each is what it would be alone."""

import os
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.contract.backend import PackedBackend
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Documents, Mask, Problem, Score
from tests.triton_interpreted.checking import BACKEND, row_sum

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

LENGTHS = [(140, 140), (1, 1), (0, 0), (20, 90), (45, 10), (0, 5), (4, 0), (64, 128)]
FEATURES = [
    {},
    {"softcap": 2.0},
    {"alibi_slopes": torch.tensor([0.3, 0.05])},
    {"dropout_p": 0.3, "dropout_seed": 2**50 + 1},
]
MASKS = [Mask(), Mask(True), Mask(True, 30), Mask(False, 20, 5), Mask(window_right=10)]


def sides(lengths):
    """The lengths of all documents' queries, and those of their keys."""
    return tuple(zip(*lengths, strict=True))


def documents(lengths, mask):
    starts = [torch.tensor([0, *accumulate(x)], dtype=torch.int32) for x in sides(lengths)]
    return Documents(*starts, *map(max, sides(lengths)), mask)


def tensors(lengths, dtype, heads=2, key_heads=1, dim=16, dim_v=16, seed=0):
    """q, k, v, dout of all documents in a row."""
    random = torch.Generator().manual_seed(seed)
    rows, keys = map(sum, sides(lengths))
    shapes = ((rows, heads, dim), (keys, key_heads, dim), (keys, key_heads, dim_v),
              (rows, heads, dim_v))  # fmt: skip
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def packed(q, k, v, dout, given, score):
    out, lse = BACKEND.packed_forward(q, Keys(k, v), given, score)
    delta = row_sum(dout[None], out[None], torch.float32)[0]
    gradients = BACKEND.packed_backward(
        Rows(q, dout, out, lse, delta), Keys(k, v), given, score, deterministic=False
    )
    return {"out": out, "lse": lse.T} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def one_by_one(lengths, q, k, v, dout, mask, scores):
    """The same by blocks: the last query of a document is at its last key."""
    found = {name: [] for name in ("out", "lse", "dq", "dk", "dv")}
    ends = zip(*([0, *accumulate(x)] for x in sides(lengths)), strict=True)
    for ((row, key), (row_end, key_end)), score in zip(pairwise(ends), scores, strict=True):
        rows, keys = row_end - row, key_end - key
        block = Block((Span(keys - rows, rows),), (Span(0, keys),), mask.band)
        own, do = q[None, row:row_end], dout[None, row:row_end]
        given = Keys(k[None, key:key_end], v[None, key:key_end]), block, score
        out, lse = BACKEND.forward(own, *given)
        row_of = Rows(own, do, out, lse, row_sum(do, out, torch.float32))
        gradients = BACKEND.backward(row_of, *given, deterministic=True)
        for name, x in zip(found, (out, lse.transpose(1, 2), *gradients), strict=True):
            found[name].append(x[0])
    return {name: torch.cat(parts) for name, parts in found.items()}


def assert_same(got, right):
    """Up to float32's last bits: a window's far side may be closed elsewhere, so tiles differ."""
    for name, x in right.items():
        torch.testing.assert_close(got[name], x, rtol=1e-5, atol=2e-6, msg=name)
        assert got[name].dtype is x.dtype


CASES = [
    pytest.param(dtype, FEATURES[features], mask, id=f"{name}-{mask}",
                 marks=[] if index in quick else [pytest.mark.full])
    for name, dtype, features, quick in (
        ("float16", torch.float16, 0, range(5)),
        ("float16, softcap", torch.float16, 1, (1, 3)),
        ("float16, ALiBi", torch.float16, 2, (1, 2)),
        ("float32", torch.float32, 0, (0, 2)),
    )
    for index, mask in enumerate(MASKS)
]  # fmt: skip
"""Each mask, and with each feature two of them; all of them for --full."""


@pytest.mark.parametrize(("dtype", "features", "mask"), CASES)
def test_each_document_is_what_it_is_alone(dtype, features, mask):
    given, score = documents(LENGTHS, mask), Score(0.25, **features)
    data = tensors(LENGTHS, dtype)
    assert_same(packed(*data, given, score), one_by_one(LENGTHS, *data, mask, [score] * 8))


def test_slopes_may_differ_from_document_to_document():
    slopes = torch.rand(8, 2, generator=torch.Generator().manual_seed(3))
    data = tensors(LENGTHS, torch.float16)
    got = packed(*data, documents(LENGTHS, Mask(True)), Score(0.25, alibi_slopes=slopes))
    scores = [Score(0.25, alibi_slopes=row) for row in slopes]
    assert_same(got, one_by_one(LENGTHS, *data, Mask(True), scores))


def test_a_documents_number_is_its_batch_entry_in_dropout():
    lengths, heads = [(20, 20), (30, 30)], 2
    q, k, _, _ = tensors(lengths, torch.float32, heads, heads, 16)
    v = torch.cat([torch.eye(32)[:n, None].expand(-1, heads, -1) for n, _ in lengths])
    score = Score(0.0, dropout_p=0.4, dropout_seed=7)
    out, _ = BACKEND.packed_forward(q, Keys(k, v), documents(lengths, Mask()), score)
    block = Block((Span(0, 30),), (Span(0, 30),), Mask().band)
    square = torch.eye(32)[None, :30, None].expand(2, -1, heads, -1)
    zeros = torch.zeros(2, 30, heads, 16)
    both, _ = BACKEND.forward(zeros, Keys(zeros, square), block, score)

    assert torch.equal(out[20:] != 0, both[1] != 0)
    assert torch.equal(out[:20, :, :20] != 0, both[0, :20, :, :20] != 0)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=3),
    mask=st.sampled_from(MASKS),
    features=st.sampled_from(FEATURES[:3]),
    slack=st.integers(0, 100),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_documents_are_what_they_are_alone(lengths, mask, features, slack):
    given, score = documents(lengths, mask), Score(0.25, **features)
    longest = given.max_seqlen_q + slack, given.max_seqlen_k + slack  # only the grid is of it
    given = Documents(given.cu_seqlens_q, given.cu_seqlens_k, *longest, mask)
    data = tensors(lengths, torch.float16, dim=24, dim_v=16)
    scores = [score] * len(lengths)
    assert_same(packed(*data, given, score), one_by_one(lengths, *data, mask, scores))


def test_it_is_a_packed_backend_that_takes_any_number_of_documents():
    assert isinstance(BACKEND, PackedBackend)
    problem = Problem(70000, 99, 2, 2, 64, 64, "float16", "cpu", packed=True)
    assert BACKEND.unsupported(problem) is None
    assert "65535" in BACKEND.unsupported(Problem(70000, 9, 2, 2, 64, 64, "float16", "cpu"))
