"""Bisection finds the longest length within what was asked, and tries few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.longest.search import Attempt, Lengths, search
from ring_attn_bench.records.status import Status

BAD = Attempt(Status.OOM, "no room")


def fails_beyond(most):
    return lambda tokens: BAD if tokens > most else Attempt(Status.OK)


@given(st.integers(1, 5000), st.integers(0, 6000), st.sampled_from([0.0, 0.05, 0.3]))
def test_what_is_found_is_right_and_as_near_as_was_asked(multiples, limit, share):
    least = 16
    lengths = Lengths(least, least * multiples + 7, share)
    found = search(fails_beyond(limit * least), lengths)
    longest = min(limit, multiples) * least
    assert (found.longest or 0) <= longest
    assert longest - (found.longest or 0) <= share * (found.longest or 0)
    if limit >= multiples and found.failed_at is None:
        assert found.longest == multiples * least
        assert found.ended == Attempt(Status.OK)
    if limit < multiples:
        assert found.failed_at is not None
        assert found.failed_at > limit * least
        assert found.ended == BAD


@given(st.integers(1, 100_000))
def test_few_lengths_are_tried(limit):
    found = search(fails_beyond(limit), Lengths(1, 200_000, 0.0))
    assert found.longest == limit
    assert found.tried <= 2 * limit.bit_length() + 2


def test_where_the_shortest_fails_there_is_no_longest():
    found = search(fails_beyond(0), Lengths(64, 4096, 0.0))
    assert (found.longest, found.failed_at, found.tried) == (None, 64, 1)


def test_how_the_shortest_failing_length_ended_is_what_is_told():
    ends = {64: Status.TIMEOUT, 48: Status.WRONG, 40: Status.OOM}
    found = search(lambda n: Attempt(ends.get(n, Status.OK)), Lengths(8, 512, 0.0))
    assert (found.longest, found.failed_at, found.ended.status) == (32, 40, Status.OOM)


def test_a_range_that_ends_before_it_begins_is_refused():
    with pytest.raises(InvalidArgument, match="at least as long"):
        Lengths(1024, 512, 0.05)
