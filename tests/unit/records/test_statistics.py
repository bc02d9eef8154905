"""The median of the slowest rank's times, and how well it is known."""

from __future__ import annotations

from math import comb, sqrt
from statistics import NormalDist, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.records.statistics import (
    SHARED,
    between_runs,
    interval_ranks,
    same_program,
    slowest,
    slowest_rank,
    spread,
    summarize,
)

times = st.floats(min_value=1e-3, max_value=1e6, allow_nan=False)
iterations = st.integers(1, 4).flatmap(
    lambda ranks: st.lists(st.lists(times, min_size=ranks, max_size=ranks), min_size=1, max_size=60)
)


def coverage(count: int, k: int) -> float:
    """P(X(k) <= median <= X(count + 1 - k)), from the definition of the binomial."""
    return sum(comb(count, below) for below in range(k, count + 1 - k)) / 2**count


def test_an_iteration_takes_as_long_as_its_slowest_rank():
    assert slowest_rank([[1.0, 3.0], [5.0, 2.0], [4.0, 4.0]]) == [3.0, 5.0, 4.0]


def test_the_median_is_of_maxima_and_not_the_maximum_of_medians():
    summary = summarize([[1.0, 9.0], [9.0, 1.0], [2.0, 2.0]])
    assert summary is not None
    assert summary.median == 9.0


@pytest.mark.parametrize(
    ("count", "ranks"),
    [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (50, (18, 33))],
)
def test_the_interval_has_the_published_order_statistics(count, ranks):
    assert interval_ranks(count) == ranks


@pytest.mark.parametrize("count", range(6))
def test_fewer_than_six_samples_have_no_interval(count):
    assert interval_ranks(count) is None


@given(st.integers(6, 300))
def test_the_interval_covers_95_percent_and_no_narrower_one_does(count):
    ranks = interval_ranks(count)
    assert ranks is not None
    assert coverage(count, ranks[0]) >= 0.95
    assert coverage(count, ranks[0] + 1) < 0.95


def test_a_thousand_samples_and_more_are_no_problem():
    assert interval_ranks(5000) == (2431, 2570)


def test_a_summary_by_hand():
    summary = summarize([[float(time)] for time in (10, 1, 2, 9, 3, 8, 4, 7, 5, 6)])
    assert summary is not None
    assert (summary.count, summary.median, summary.low, summary.high) == (10, 5.5, 2.0, 9.0)
    assert summary.spread == pytest.approx((7.75 - 3.25) / 5.5)


def test_no_samples_have_no_summary():
    assert summarize([]) is None


def test_one_sample_has_no_spread():
    assert spread([3.0]) is None


@given(iterations)
def test_the_interval_holds_the_median_and_is_made_of_samples(samples):
    summary = summarize(samples)
    assert summary is not None
    slowest = [max(ranks) for ranks in samples]
    assert summary.median == median(slowest)
    if len(samples) < 6:
        assert summary.low is None
        assert summary.high is None
    else:
        assert {summary.low, summary.high} <= set(slowest)
        assert summary.low <= summary.median <= summary.high


@given(iterations, st.randoms())
def test_the_order_of_samples_does_not_matter(samples, random):
    shuffled = random.sample(samples, len(samples))
    assert summarize(shuffled) == summarize(samples)


@given(iterations)
def test_twice_the_time_is_twice_the_median_and_the_same_spread(samples):
    once = summarize(samples)
    twice = summarize([[2 * time for time in ranks] for ranks in samples])
    assert once is not None
    assert twice is not None
    assert twice.median == 2 * once.median
    assert twice.spread == pytest.approx(once.spread)


def test_a_rank_that_takes_far_longer_than_the_others_is_named():
    slow = slowest([[1.0, 4.0, 1.0], [1.0, 5.0, 2.0], [1.0, 6.0, 1.0]], imbalance=1.0)

    assert slow is not None
    assert slow.is_apart
    assert str(slow) == "rank 1 takes 5 times as long as the others"


def test_a_rank_with_more_work_is_not_named_for_it():
    """W = 2, causal and contiguous: rank 1 has three times the pairs of rank 0."""
    slow = slowest([[1.0, 3.1], [1.0, 2.9]], imbalance=1.5)

    assert slow is not None
    assert (slow.rank, slow.factor, slow.by_work) == (1, 3.0, 3.0)
    assert not slow.is_apart


@pytest.mark.parametrize("samples", [[], [[]], [[1.0], [2.0]], [[1.0, 2.0], [1.0]], [[0.0, 0.0]]])
def test_where_ranks_have_no_times_apart_none_is_the_slowest(samples):
    assert slowest(samples, imbalance=None) is None


@given(st.floats(0, 1))
def test_two_runs_of_one_program_are_as_far_apart_as_is_said_in_95_of_100_rows(of_samples):
    of_a_run = between_runs(of_samples)
    difference = NormalDist(0, sqrt(2) * of_a_run)

    assert of_a_run >= max(SHARED, 0.6 * of_samples)
    assert 2 * difference.cdf(same_program(of_samples)) - 1 == pytest.approx(0.95)
