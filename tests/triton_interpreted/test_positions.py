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

from ring_attn_bench.block import Block, Form
from ring_attn_bench.positions import Band, Range, Span, count
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

ZIGZAG = (Span(0, 140), Span(980, 140))  # a rank's own tokens: whole tiles in both chunks
FETCHED = (Span(140, 70), Span(900, 80))
DESCENDING = (Span(900, 80), Span(140, 70))
MANY = (Span(0, 20), Span(200, 30), Span(90, 25))
MORE = (Span(150, 20), Span(40, 33), Span(0, 10), Span(199, 3), Span(230, 17))

CASES = {
    "a zigzag rank's own tokens": Case(ZIGZAG, ZIGZAG, band=CAUSAL, heads=1, groups=1),
    "and what it fetched": Case(ZIGZAG, FETCHED, band=CAUSAL, heads=2, groups=1),
    "in descending order": Case(ZIGZAG, DESCENDING, band=CAUSAL),
    "rows in descending order": Case(DESCENDING, FETCHED, band=CAUSAL),
    "window": Case(ZIGZAG, FETCHED, band=Band(0, 100)),
    "window on both sides": Case(FETCHED, ZIGZAG, band=Band(-60, 130)),
    "rows of one chunk": Case((Span(500, 90),), (Span(40, 70), Span(520, 60)), band=CAUSAL),
    "keys of one chunk": Case((Span(40, 70), Span(520, 60)), (Span(500, 90),), band=CAUSAL),
    "one row before its key": Case((Span(3, 1),), (Span(0, 3), Span(7, 2)), band=CAUSAL),
    "nothing is seen": Case((Span(3, 9), Span(20, 9)), (Span(99, 5), Span(200, 5)), band=CAUSAL),
    "strides": Case((Span(3, 50, 4), Span(403, 20, 4)), (Span(1, 60, 4), Span(302, 33, 4)),
                    band=Band(-9, 200)),
    "many chunks": Case(MANY, MORE, band=CAUSAL),
    "many chunks, window": Case(MORE, MANY, band=Band(-30, 40)),
    "softcap": Case(ZIGZAG[:1] + FETCHED[1:], FETCHED, band=CAUSAL, softcap=2.0),
    "ALiBi": Case(130, 130, band=CAUSAL, alibi=True),
    "ALiBi of every batch entry, grouped heads": Case(100, 140, batch=2, heads=4, alibi=True),
    "ALiBi, rows after their keys": Case((Span(700, 90),), 140, band=Band(high=690), alibi=True),
    "ALiBi, zigzag": Case(ZIGZAG, ZIGZAG, band=CAUSAL, heads=1, groups=1, alibi=True),
    "ALiBi, nothing masked": Case(FETCHED, ZIGZAG, alibi=True, softcap=3.0),
    "ALiBi, stripes": Case((Span(3, 90, 4),), (Span(1, 80, 4),), band=CAUSAL, alibi=True),
    "ALiBi, many chunks": Case(MANY, MORE, alibi=True),
    "ALiBi, far away": Case((Span(7 * 10**8, 70),), (Span(7 * 10**8 - 90, 100),), alibi=True),
    "ALiBi, float32's integers end": Case((Span(2**25 + 1, 70),), (Span(2**25 - 30, 90),),
                                          alibi=True, band=CAUSAL),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_out_and_gradients_are_as_good_as_plain_torch(case, dtype):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype))


def spans(most):
    """Up to four chunks of one step, in any order, without overlap."""

    @st.composite
    def draw_spans(draw, step):
        gaps = draw(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60)), max_size=most - 1))
        at, found = draw(st.integers(0, 3)), []
        for gap, length in [(0, draw(st.integers(1, 60))), *gaps]:
            found.append(Span(at + gap, length, step))
            at = found[-1].last + step
        return tuple(draw(st.permutations(found)))

    return draw_spans


@st.composite
def cases(draw):
    step = draw(st.sampled_from((1, 1, 3)))
    low, high = (draw(st.none() | st.integers(-200, 300)) for _ in range(2))
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    return Case(
        draw(spans(3)(step)),
        draw(spans(4)(step)),
        heads=2,
        groups=draw(st.integers(1, 2)),
        head_dim=draw(st.sampled_from((16, 59))),
        band=Band(low, high),
        softcap=draw(st.sampled_from((0.0, 5.0))),
        alibi=draw(st.booleans()),
        dropout_p=draw(st.sampled_from((0.0, 0.3))),
    )


@given(case=cases(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_chunks_band_and_features_are_as_good_as_plain_torch(case, dtype, seed):
    assert_as_good_as_plain_torch(case, *case.tensors(dtype, seed))


@given(case=cases())
@settings(max_examples=300, deadline=None, derandomize=True)
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
    compute.forward_into(q, k, v, out, lse, None, case.block, case.score, first=False)

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
