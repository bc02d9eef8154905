"""Spans, bands and areas against pairs counted one by one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.plan.positions import Band, Range, Span, count, part

SIDE = st.none() | st.integers(-50, 50)
BANDS = st.builds(Band, SIDE, SIDE)
LENGTHS = st.integers(1, 12)


@st.composite
def two_spans(draw):
    """Rows and keys of one step, as every partition deals them."""
    step = draw(st.integers(1, 5))
    rows, keys = (Span(draw(st.integers(0, 40)), draw(LENGTHS), step) for _ in range(2))
    return rows, keys


@st.composite
def one_and_many(draw):
    """A single token, whose step says nothing, and tokens of any step, either of them the rows."""
    one = Span(draw(st.integers(0, 40)), 1, draw(st.integers(1, 5)))
    many = Span(draw(st.integers(0, 40)), draw(LENGTHS), draw(st.integers(1, 5)))
    return draw(st.permutations((one, many)))


def pairs(band, rows, keys):
    """The allowed pairs of indices, by the definition of a band."""
    return {
        (i, j)
        for i, row in enumerate(rows.positions())
        for j, key in enumerate(keys.positions())
        if (band.low is None or row - key >= band.low)
        and (band.high is None or row - key <= band.high)
    }


@settings(deadline=None)
@given(BANDS, two_spans() | one_and_many())
def test_a_band_between_two_spans_allows_the_same_pairs_by_index(band, spans):
    rows, keys = spans
    between = band.between(rows, keys)
    by_index = pairs(between, Span(0, rows.count), Span(0, keys.count))

    assert by_index == pairs(band, rows, keys)


@settings(deadline=None)
@given(BANDS, two_spans() | one_and_many())
def test_a_side_that_binds_no_pair_is_open(band, spans):
    rows, keys = spans
    between = band.between(rows, keys)
    every = rows.count * keys.count
    low_only, high_only = Band(low=between.low), Band(high=between.high)

    assert between.low is None or len(pairs(low_only, *indices(rows, keys))) < every
    assert between.high is None or len(pairs(high_only, *indices(rows, keys))) < every
    assert between.is_open == (len(pairs(band, rows, keys)) == every)


def indices(rows, keys):
    return Span(0, rows.count), Span(0, keys.count)


def test_spans_of_two_steps_have_no_band_and_the_error_says_both():
    with pytest.raises(ValueError, match=r"steps 2 and 3"):
        Band(low=0).between(Span(0, 4, 2), Span(0, 4, 3))


@settings(deadline=None)
@given(BANDS, LENGTHS, LENGTHS)
def test_visible_rows_and_keys_are_those_of_some_allowed_pair(band, rows, keys):
    allowed = pairs(band, Span(0, rows), Span(0, keys))
    seen_rows, seen_keys = band.visible_rows(rows, keys), band.visible_keys(rows, keys)

    assert set(range(seen_rows.start, seen_rows.stop)) == {i for i, _ in allowed}
    assert set(range(seen_keys.start, seen_keys.stop)) == {j for _, j in allowed}


@settings(deadline=None)
@given(BANDS, two_spans())
def test_what_falls_between_two_stripes_is_seen_by_nobody(band, spans):
    rows, keys = spans
    between = band.between(rows, keys)
    nothing = not pairs(band, rows, keys)

    assert (len(between.visible_rows(rows.count, keys.count)) == 0) == nothing
    assert (len(between.visible_keys(rows.count, keys.count)) == 0) == nothing


@settings(deadline=None)
@given(BANDS, LENGTHS, LENGTHS)
def test_the_area_is_the_number_of_allowed_pairs(band, rows, keys):
    assert band.area(rows, keys) == len(pairs(band, Span(0, rows), Span(0, keys)))


@settings(deadline=None)
@given(BANDS, two_spans())
def test_the_area_between_two_spans_is_the_number_of_allowed_pairs(band, spans):
    rows, keys = spans
    assert band.between(rows, keys).area(rows.count, keys.count) == len(pairs(band, rows, keys))


def test_the_area_of_a_million_tokens_is_exact():
    length = 2**20
    assert Band(low=0).area(length, length) == length * (length + 1) // 2
    window = length * 4096 - 4095 * 4096 // 2
    assert Band(0, 4095).area(length, length) == window
    assert Band(-4095, 4095).area(length, length) == 2 * window - length


@settings(deadline=None)
@given(BANDS, st.integers(-60, 60))
def test_allows_is_the_definition(band, distance):
    above = band.low is None or band.low <= distance
    assert band.allows(distance) == (above and (band.high is None or distance <= band.high))


@settings(deadline=None)
@given(BANDS, st.integers(-60, 60), st.integers(-60, 60))
def test_a_shifted_band_allows_distances_that_much_larger(band, by, distance):
    assert band.shifted(by).allows(distance + by) == band.allows(distance)


SPANS = st.lists(
    st.builds(Span, st.integers(0, 90), st.integers(1, 9), st.integers(1, 4)), max_size=4
)


@settings(deadline=None)
@given(SPANS, st.integers(0, 40), st.integers(0, 40))
def test_a_part_has_the_positions_of_its_tokens_in_stored_order(spans, start, length):
    stored = [at for span in spans for at in span.positions()]
    cut = part(tuple(spans), Range(start, start + length))

    assert [at for span in cut for at in span.positions()] == stored[start : start + length]
    assert all(span.count > 0 for span in cut)
    assert count(cut) == len(stored[start : start + length])


@settings(deadline=None)
@given(st.builds(Span, st.integers(0, 90), st.integers(1, 9), st.integers(1, 4)))
def test_the_last_position_of_a_span_is_the_last_of_its_positions(span):
    assert span.last == span.positions()[-1]


def test_a_range_that_ends_before_it_starts_is_empty():
    assert len(Range(5, 3)) == 0
    assert len(Range(3, 5)) == 2
    assert Range(3, 5).shifted(-3) == Range(0, 2)
    assert list(range(10))[Range(3, 5).slice] == [3, 4]
