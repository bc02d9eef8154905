"""Dropout in the kernels, interpreted on a CPU: bit for bit `ring_attn_bench.contract.dropout`."""

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

import triton
import triton.language as tl
from ring_attn_backends.triton.arguments import of_score
from ring_attn_backends.triton.dropout import column_words, head_words, row_words
from ring_attn_backends.triton.dropout import kept as kept_in_a_tile

from ring_attn_bench.contract.dropout import keep
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Score
from tests.triton_interpreted.cases import DROPPED, SHORT_FETCHED, SHORT_ZIGZAG, in_dtypes
from tests.triton_interpreted.checking import (
    BACKEND,
    CAUSAL,
    Case,
    assert_as_good_as_plain_torch,
    positions,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

STRIPES = (Span(2, 60, 4),)


@triton.jit
def _kept(found_ptr, rows_ptr, keys_ptr, word_0, word_1, threshold, N: tl.constexpr) -> None:
    """found[head, i, j] of one head; grid (heads,)."""
    head_0, head_1 = head_words(word_0, word_1, tl.program_id(0), True)
    index = tl.arange(0, N)
    row_0, row_1 = row_words(head_0, head_1, tl.load(rows_ptr + index))
    columns = column_words(tl.load(keys_ptr + index))
    stays = kept_in_a_tile(row_0[:, None], row_1[:, None], columns[None, :], threshold)
    at = index[:, None] * N + index[None, :] + tl.program_id(0) * N * N
    tl.store(found_ptr + at, stays.to(tl.int8))


@given(
    seed=st.integers(0, 2**63 - 1),
    p=st.floats(0.001, 0.999),
    row=st.integers(-(2**31), 2**31 - 33),
    key=st.integers(-(2**31), 2**31 - 33),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_tile_keeps_the_same_weights_bit_for_bit(seed, p, row, key):
    rows, keys = (at + torch.arange(32, dtype=torch.int32) for at in (row, key))
    found = torch.empty(6, 32, 32, dtype=torch.int8)
    given = of_score(Score(1.0, dropout_p=p, dropout_seed=seed))
    words = given["word_0"], given["word_1"], given["threshold"]
    _kept[(6,)](found, rows, keys, *words, N=32)

    assert torch.equal(found.bool(), keep(seed, p, 2, 3, rows.long(), keys.long()).flatten(0, 1))


def weights_kept(case, backend=BACKEND):
    """(B, H, M, N), read off out: with all scores 0 and v a unit matrix, out is the weights."""
    keys = case.block.key_count
    q, k, _, _ = case.tensors(torch.float32)
    v = torch.eye(keys).expand(case.batch, case.groups, keys, keys).transpose(1, 2).contiguous()
    out, _ = backend.forward(torch.zeros_like(q), Keys(k, v), case.block, case.score)
    return (out != 0).transpose(1, 2), out.transpose(1, 2)


CASES = {
    "one chunk": Case(70, 90, batch=2, heads=4, groups=2, head_dim=16, dropout_p=0.2),
    "two chunks": Case(SHORT_ZIGZAG, SHORT_FETCHED, head_dim=16, dropout_p=0.5),
    "many chunks": Case((*SHORT_ZIGZAG, Span(990, 9)),
                        (*SHORT_FETCHED, Span(3, 7), Span(30, 9)), head_dim=16, dropout_p=0.1),
    "stripes": Case(STRIPES, STRIPES, heads=3, groups=1, head_dim=16, dropout_p=0.9),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_forward_drops_by_position_and_scales_what_it_keeps(case):
    found, weights = weights_kept(case)
    rows, keys = positions(case.block.rows), positions(case.block.keys)
    stays = keep(case.seed, case.dropout_p, case.batch, case.heads, rows, keys)

    assert torch.equal(found, stays)
    kept_weight = 1 / (len(keys) * (1 - case.dropout_p))
    torch.testing.assert_close(weights[stays], torch.full_like(weights[stays], kept_weight))


@pytest.mark.parametrize(
    ("case", "dtype"), in_dtypes(DROPPED, "full \n zigzag \n rows without keys")
)
def test_out_and_gradients_are_as_good_as_plain_torch_with_the_same_weights(case, dtype):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype))


def test_lse_knows_nothing_of_dropout_and_a_seed_of_another_is_another_mask():
    case = Case(70, 70, dropout_p=0.3, band=CAUSAL)
    q, k, v, _ = case.tensors(torch.float16)
    out, lse = BACKEND.forward(q, Keys(k, v), case.block, case.score)
    again = BACKEND.forward(q, Keys(k, v), case.block, case.score)
    other = BACKEND.forward(q, Keys(k, v), case.block, replace(case, seed=case.seed + 1).score)
    plain = BACKEND.forward(q, Keys(k, v), case.block, replace(case, dropout_p=0.0).score)

    assert torch.equal(lse, plain[1])
    assert torch.equal(out, again[0])
    assert not torch.equal(out, other[0])
