"""Blocks by position, in two chunks or many, and ALiBi's bias, interpreted on a CPU."""

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.triton import compute
from ring_attn_backends.triton.lines import Places, pieces

from ring_attn_bench.contract.tensors import Keys, Running
from ring_attn_bench.plan.block import Block, Form
from ring_attn_bench.plan.positions import Range, Span, count
from tests.triton_interpreted.cases import (
    FETCHED,
    MANY,
    MORE,
    POSITIONS,
    ZIGZAG,
    bands_of_positions,
    in_dtypes,
)
from tests.triton_interpreted.checking import (
    BACKEND,
    CAUSAL,
    DTYPES,
    Case,
    assert_as_good_as_plain_torch,
    computed,
    positions,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


IN_FLOAT32 = """
    a zigzag rank's own tokens
    and what it fetched
    one row before its key
    many chunks
    ALiBi, zigzag
    ALiBi, far away
    ALiBi, float32's integers end
"""


@pytest.mark.parametrize(("case", "dtype"), in_dtypes(POSITIONS, IN_FLOAT32))
def test_out_and_gradients_are_as_good_as_plain_torch(case, dtype):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype))


@given(case=bands_of_positions(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_chunks_band_and_features_are_as_good_as_plain_torch(case, dtype, seed):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype, seed))


@given(case=bands_of_positions())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_pieces_and_places_hold_every_allowed_pair_once_and_nothing_else(case):
    block = case.block
    rows, keys = positions(block.rows), positions(block.keys)
    distance = rows[:, None] - keys
    low, high = block.band.low, block.band.high
    allowed = torch.ones_like(distance, dtype=torch.bool)
    allowed &= distance >= (distance.min() if low is None else low)
    allowed &= distance <= (distance.max() if high is None else high)
    for by_position in (False, True):
        seen = torch.zeros_like(distance)
        for piece in pieces(block, positions=by_position):
            places = Places.of(piece.block, positions=by_position)
            i, j = (line_places(line) for line in (places.rows, places.keys))
            visible = (i[:, None] - j >= places.low) & (i[:, None] - j <= places.high)
            seen[piece.rows.slice, piece.keys.slice] += visible
            if by_position:
                at = places.rows.start + places.step * i
                assert torch.equal(at, rows[piece.rows.slice])
                at = places.keys.start + places.step * j
                assert torch.equal(at, keys[piece.keys.slice])
        assert torch.equal(seen, allowed.long())


def line_places(line):
    index = torch.arange(line.count)
    return index + torch.where(index >= line.split, line.jump, 0)


def test_one_call_does_what_fits_in_two_chunks_and_neighbours_are_one():
    own = Block(ZIGZAG, ZIGZAG, CAUSAL)
    six = Block(ZIGZAG, (Span(0, 9), Span(9, 9), Span(18, 9), Span(40, 9), Span(49, 9)), CAUSAL)

    assert own.form is Form.CAUSAL
    assert len(pieces(own, positions=True)) == len(pieces(own, positions=False)) == 1
    assert six.form is Form.GENERAL
    (whole,) = pieces(six, positions=False)
    assert whole.keys == Range(0, 45)
    assert whole.block.keys == (Span(0, 27), Span(40, 18))
    assert len(pieces(Block(MANY, MORE, CAUSAL), positions=False)) == 2 * 3


@pytest.mark.parametrize("alibi", [False, True])
def test_a_block_without_keys_or_without_rows(alibi):
    for empty in ((), (Span(5, 0),)):
        case = Case(ZIGZAG, empty, alibi=alibi, band=CAUSAL)
        out, lse, dq, _, _ = computed(BACKEND, case, *case.tensors(torch.float16))
        assert not out.any()
        assert not dq.any()
        assert lse.isneginf().all()
        case = Case(empty, ZIGZAG, alibi=alibi, band=CAUSAL)
        *_, dk, dv = computed(BACKEND, case, *case.tensors(torch.float16))
        assert not dk.any()
        assert not dv.any()


def test_a_tile_that_nothing_is_added_to_is_not_written(monkeypatch):
    """Rows of a carried launch that see nothing stay what they are, bit for bit."""
    case = Case((Span(0, 64), Span(500, 64)), (Span(400, 32),), band=CAUSAL, head_dim=16)
    q, k, v, _ = case.tensors(torch.float16)
    out, lse = torch.randn(1, 128, 2, 16), torch.randn(1, 2, 128)
    before = out.clone(), lse.clone()
    compute.forward_into(q, Keys(k, v), Running(out, lse), case.block, case.score, first=False)

    assert torch.equal(out[:, :64], before[0][:, :64])
    assert torch.equal(lse[..., :64], before[1][..., :64])
    assert not torch.equal(out[:, 64:], before[0][:, 64:])


def test_the_same_numbers_at_any_position():
    """A shift of all positions changes no bit: what a kernel counts from is in the tile."""
    case = Case(ZIGZAG, FETCHED, band=CAUSAL, alibi=True)
    far = replace(
        case,
        rows=tuple(replace(s, start=s.start + 10**8) for s in case.rows),
        keys=tuple(replace(s, start=s.start + 10**8) for s in case.keys),
    )
    tensors = case.tensors(torch.float32)
    for got, right in zip(
        computed(BACKEND, far, *tensors), computed(BACKEND, case, *tensors), strict=True
    ):
        assert torch.equal(got, right)
    assert count(case.rows) == 280
