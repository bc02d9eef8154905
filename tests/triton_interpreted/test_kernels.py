"""The Triton kernels' numbers, interpreted on a CPU, against attention in float64."""

import math
import os
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.block import Alibi, Form
from ring_attn_bench.positions import Band
from ring_attn_bench.problem import Mask, Problem
from tests.triton_interpreted.checking import (
    BACKEND,
    CAUSAL,
    DTYPES,
    OPEN,
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

CASES = {
    "full": Case(rows=260, keys=260, heads=1, groups=1),
    "causal": Case(rows=260, keys=260, heads=1, groups=1, band=CAUSAL),
    "causal-one-short-tile": Case(rows=7, keys=7, band=CAUSAL),
    "full-one-row": Case(rows=1, keys=201),
    "full-one-key": Case(rows=201, keys=1),
    "full-more-keys-gqa": Case(rows=70, keys=257, heads=4, groups=2),
    "full-more-rows-mqa": Case(rows=257, keys=70, heads=3, groups=1),
    "causal-gqa-d128": Case(
        rows=150, keys=150, heads=2, groups=1, batch=2, head_dim=128, band=CAUSAL
    ),
    "window-left": Case(rows=300, keys=300, heads=1, groups=1, band=Band(0, 100)),
    "window-both-gqa": Case(rows=140, keys=200, heads=2, groups=1, band=Band(-90, 40)),
    "window-open-right": Case(rows=140, keys=140, band=Band(high=17)),
    "window-beside-the-diagonal": Case(rows=160, keys=150, band=Band(30, 190)),
    "band-of-one-key": Case(rows=100, keys=100, band=Band(-3, -3)),
    "rows-without-keys": Case(rows=150, keys=50, band=Band(20, 60)),
    "d16": Case(head_dim=16, band=CAUSAL),
    "d59-dv40": Case(head_dim=59, head_dim_v=40),
    "d40-dv72": Case(rows=70, head_dim=40, head_dim_v=72, band=Band(-50, 50)),
    "d96": Case(head_dim=96, band=CAUSAL),
    "d192-dv128": Case(rows=70, keys=70, head_dim=192, head_dim_v=128, band=CAUSAL),
    "d256": Case(rows=70, keys=70, head_dim=256, band=CAUSAL),
    "softcap": Case(softcap=2.0, band=CAUSAL),
    "softcap-window-gqa": Case(
        heads=2, groups=1, softcap=30.0, softmax_scale=2.0, band=Band(-10, 70)
    ),
    "negative-scale": Case(softmax_scale=-0.3),
    "zero-scale": Case(softmax_scale=0.0, band=CAUSAL),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_out_and_gradients_are_as_good_as_plain_torch(case, dtype):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype))


@st.composite
def cases(draw):
    rows, keys = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    low = draw(st.none() | st.integers(-keys - 5, rows + 5))
    high = draw(st.none() | st.integers(-keys - 5, rows + 5))
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    groups = draw(st.sampled_from((1, 2)))
    return Case(
        rows=rows,
        keys=keys,
        groups=groups,
        heads=groups * draw(st.integers(1, 2)),
        head_dim=draw(st.integers(1, 70)),
        head_dim_v=draw(st.integers(1, 70)),
        band=Band(low, high),
        softcap=draw(st.sampled_from((0.0, 5.0))),
    )


@given(case=cases(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_shape_and_band_is_as_good_as_plain_torch(case, dtype, seed):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype, seed))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [16, 32, 40, 59, 64, 96, 111, 128, 160, 192, 224, 256])
def test_the_whole_grid_is_as_good_as_plain_torch(head_dim, dtype):
    bands = (OPEN, CAUSAL, Band(-30, 80), Band(25, None), Band(None, -20))
    shapes = ((113, 203), (203, 113), (256, 256))
    # a tenth of all combinations, in which every pair of choices meets: all take half an hour
    for index, band in product(range(2), bands):
        place = index + bands.index(band)
        (rows, keys), groups, softcap = shapes[place % 3], 1 + place % 2, (0.0, 15.0)[index]
        case = Case(rows, keys, 1, 2, groups, head_dim, max(16, head_dim - 19), band, softcap)
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

    out, lse = BACKEND.forward(
        token_major(q), token_major(k), token_major(v), case.block, case.score
    )
    delta = row_sum(dout, out, torch.float32)
    gradients = BACKEND.backward(
        *(token_major(x) for x in (dout, q, k, v)), token_major(out), cut_out(lse),
        cut_out(delta), case.block, case.score, deterministic=True,
    )  # fmt: skip

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
    out, lse = BACKEND.forward(q, k, v, case.block, case.score)
    gradients = BACKEND.backward(
        dout, q, k, v, out, torch.zeros_like(lse), torch.zeros_like(lse), case.block, case.score,
        deterministic=True,
    )  # fmt: skip

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


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_the_softmax(sign):
    case = Case(rows=70, keys=70, band=CAUSAL)
    q, k, v, dout = case.tensors(torch.float32)
    q, k = q.abs() * 40, sign * k.abs() * 40

    out, lse, *gradients = computed(BACKEND, case, q, k, v, dout)
    true_out, true_lse, *true = computed(REFERENCE, case, *wide((q, k, v, dout)))
    terms = computed(
        REFERENCE, case, *wide((q, k, v, dout)), delta=torch.zeros_like(true_lse)
    )[2:]  # fmt: skip
    # a float32 score, and an lse, of 1e4 is only known to this; so, relatively, is a probability
    largest = float(true_lse.abs().max())
    unsure = 8 * torch.finfo(torch.float32).eps * largest

    assert largest > 5e3
    torch.testing.assert_close(lse.double(), true_lse, atol=0, rtol=1e-6)
    values = zip((out, *gradients), (true_out, *true), (true_out, *terms), strict=True)
    for mine, theirs, size in values:
        assert error(mine, theirs) <= 2 * unsure * float(size.abs().max())


@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_scores_that_are_not_finite_go_where_the_references_go(bad, softcap):
    case = Case(rows=70, keys=140, softcap=softcap)
    q, k, v, dout = case.tensors(torch.float32)
    q, k = q.abs(), k.abs()
    k[:, 100, 0, 3] = bad  # every row of head 0 has one bad score
    out, lse = BACKEND.forward(q, k, v, case.block, case.score)
    true_out, true_lse = REFERENCE.forward(q, k, v, case.block, case.score)

    torch.testing.assert_close(out, true_out, equal_nan=True, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lse, true_lse, equal_nan=True, atol=1e-5, rtol=1e-5)

    got, true = (
        b.backward(
            dout, q, k, v, true_out, true_lse, row_sum(dout, true_out, torch.float32),
            case.block, case.score, deterministic=True,
        )
        for b in (BACKEND, REFERENCE)
    )  # fmt: skip
    for mine, theirs in zip(got, true, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, atol=1e-4, rtol=1e-4)


def test_the_gradients_of_a_finished_call_are_float32():
    case = Case(rows=20, keys=20)
    gradients = computed(BACKEND, case, *case.tensors(torch.float16))[2:]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_the_interpreter_is_named_and_bfloat16_refused_in_it():
    problem = Problem(1, 64, 2, 2, 64, 64, "bfloat16", "cpu", Mask(causal=True))

    assert BACKEND.interpreted()
    assert "bfloat16" in BACKEND.unsupported(problem)
    assert BACKEND.unsupported(replace(problem, dtype="float16")) is None
    assert BACKEND.forms == set(Form) - {Form.GENERAL}
    assert TritonBackend(by_position=True).forms == set(Form)
    assert BACKEND.alibi is Alibi.POSITION
