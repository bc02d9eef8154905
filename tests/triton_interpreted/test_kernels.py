"""The Triton kernels' numbers, interpreted on a CPU, against attention in float64."""

import math
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Mask, Problem
from tests.triton_interpreted.cases import (
    GRID_DIMS,
    INDICES,
    bands_of_indices,
    grid,
    in_dtypes,
)
from tests.triton_interpreted.checking import (
    BACKEND,
    DTYPES,
    REFERENCE,
    Case,
    assert_as_good_as_plain_torch,
    computed,
    error,
    floor,
    plain_torch,
    row_sum,
    wide,
)

pytestmark = [
    # NumPy inside the interpreter: -inf scores, infinite scores, and Triton 3.6's loop bounds
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


IN_FLOAT32 = """
    causal
    full-more-keys-gqa
    full-one-key
    window-both-gqa
    rows-without-keys
    d59-dv40
    d16
    d256
    softcap
    zero-scale
"""


@pytest.mark.parametrize(("case", "dtype"), in_dtypes(INDICES, IN_FLOAT32))
def test_out_and_gradients_are_as_good_as_plain_torch(case, dtype):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype))


@given(case=bands_of_indices(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_any_shape_and_band_is_as_good_as_plain_torch(case, dtype, seed):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype, seed))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    # in float32, wider ones are for a GPU: interpreted, the four take half of the grid's time
    [(dim, dtype) for dim in GRID_DIMS for dtype in DTYPES
     if dim <= 128 or dtype is torch.float16],
    ids=str,
)  # fmt: skip
def test_the_whole_grid_is_as_good_as_plain_torch(head_dim, dtype):
    for case in grid(head_dim):
        assert_as_good_as_plain_torch(case, *case.tensors(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_with_any_strides_give_the_same_bits(dtype):
    case = Case(rows=70, keys=90, batch=2, heads=2, groups=1, band=Band(-20, 50))
    q, k, v, dout = case.tensors(dtype)
    expected = computed(BACKEND, case, q, k, v, dout)

    def token_major(x):  # a slice of a landing buffer (tokens, batch, heads, dim)
        buffer = torch.full((x.shape[1] + 9, x.shape[0], x.shape[2], x.shape[3] + 8), math.nan)
        view = buffer.to(x.dtype)[4:-5, ..., : x.shape[3]].transpose(0, 1)
        return view.copy_(x)

    def cut_out(x):  # of longer rows
        buffer = torch.full((*x.shape[:2], x.shape[2] + 21), math.nan)
        return buffer[..., 13:-8].copy_(x)

    keys = Keys(token_major(k), token_major(v))
    out, lse = BACKEND.forward(token_major(q), keys, case.block, case.score)
    delta = row_sum(dout, out, torch.float32)
    rows = Rows(*(token_major(x) for x in (q, dout, out)), cut_out(lse), cut_out(delta))
    gradients = BACKEND.backward(rows, keys, case.block, case.score, deterministic=True)

    for got, true in zip((out, lse, *gradients), expected, strict=True):
        assert torch.equal(got, true)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("band", [Band(20, 60), Band(high=-200), Band(low=300)], ids=str)
def test_a_row_without_keys_has_out_0_and_lse_minus_infinity_and_no_gradient(band, dtype):
    case = Case(rows=150, keys=50, band=band)
    out, lse, *gradients = computed(BACKEND, case, *case.tensors(dtype))
    seen = band.visible_rows(case.rows, case.keys)
    empty = torch.ones(case.rows, dtype=torch.bool)
    empty[seen.slice] = False

    assert empty.any()
    assert torch.equal(lse.isneginf(), empty.expand_as(lse))
    assert not out[:, empty].any()
    assert not gradients[0][:, empty].any()
    assert not any(gradient.isnan().any() for gradient in gradients)


def test_no_keys_at_all_give_an_empty_result():
    case = Case(rows=20, keys=0)
    q, k, v, dout = case.tensors(torch.float32)
    out, lse = BACKEND.forward(q, Keys(k, v), case.block, case.score)
    rows = Rows(q, dout, out, torch.zeros_like(lse), torch.zeros_like(lse))
    gradients = BACKEND.backward(rows, Keys(k, v), case.block, case.score, deterministic=True)

    assert not out.any()
    assert lse.isneginf().all()
    assert not gradients[0].any()
    assert gradients[1].shape == k.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_the_whole_rows_lse_and_delta_the_shares_of_two_blocks_sum_to_the_gradients(dtype):
    whole = Case(rows=120, keys=150, heads=4, groups=2, band=Band(-40, 90))
    q, k, v, dout = whole.tensors(dtype)
    true_out, true_lse, *true = computed(REFERENCE, whole, *wide((q, k, v, dout)))
    reached = plain_torch(whole, q, k, v, dout)[1:]
    lse, delta = true_lse.float(), row_sum(dout, true_out, torch.float64).float()
    shares = []
    for first, last in ((0, 70), (70, 150)):
        part = replace(whole, keys=last - first, band=whole.band.shifted(first))
        keys = (k[:, first:last], v[:, first:last])
        shares.append(computed(BACKEND, part, q, *keys, dout, lse, delta)[2:])
    (dq_0, *left), (dq_1, *right) = shares
    got = (dq_0 + dq_1, *(torch.cat(pair, dim=1) for pair in zip(left, right, strict=True)))

    for share, gradient, plain in zip(got, true, reached, strict=True):
        assert error(share, gradient) <= 3 * error(plain, gradient) + floor(gradient, dtype)


def test_the_gradients_of_a_finished_call_have_the_dtype_of_its_inputs():
    case = Case(rows=20, keys=20)
    gradients = computed(BACKEND, case, *case.tensors(torch.float16))[2:]
    assert {gradient.dtype for gradient in gradients} == {torch.float16}


def test_the_interpreter_is_named_and_bfloat16_refused_in_it():
    problem = Problem(1, 64, 2, 2, 64, 64, "bfloat16", "cpu", Mask(causal=True))

    assert BACKEND.interpreted()
    assert "bfloat16" in BACKEND.unsupported(problem)
    assert BACKEND.unsupported(replace(problem, dtype="float16")) is None
    assert BACKEND.forms == set(Form) - {Form.GENERAL}
    assert TritonBackend(by_position=True).forms == set(Form)
    assert BACKEND.alibi is Alibi.POSITION
