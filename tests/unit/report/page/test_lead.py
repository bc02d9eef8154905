"""A lead is a ratio of medians with an interval that holds it, and is sure beyond noise alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.report.page.lead import lead


def samples(times):
    """One rank's."""
    return [[time] for time in times]


def noisy(middle, count, seed):
    random = Random(seed)
    return samples(middle * random.lognormvariate(0, 0.02) for _ in range(count))


def test_a_lead_says_how_many_times_as_long_the_slower_takes():
    found = lead(noisy(13, 30, "a"), noisy(10, 30, "b"))
    assert found.times == pytest.approx(1.3, rel=0.03)
    assert found.low < found.times < found.high
    assert found.is_sure
    assert str(found) == f"{found.times:.2f}x [{found.low:.2f}, {found.high:.2f}]"


def test_what_differs_by_noise_alone_is_not_sure():
    same = [lead(noisy(10, 20, f"a{n}"), noisy(10, 20, f"b{n}")) for n in range(200)]
    assert sum(found.is_sure for found in same) <= 5  # 2.5 % on this side, and less: Bonferroni


def test_the_interval_holds_the_true_ratio_in_most_runs():
    found = [lead(noisy(11, 15, f"c{n}"), noisy(10, 15, f"d{n}")) for n in range(200)]
    assert sum(x.low <= 1.1 <= x.high for x in found) >= 190


def test_too_few_samples_have_a_ratio_and_no_interval():
    found = lead(noisy(12, 6, "e"), noisy(10, 30, "f"))
    assert (found.low, found.high) == (None, None)
    assert not found.is_sure
    assert str(found) == f"{found.times:.2f}x"


def test_the_slowest_rank_counts():
    assert lead([[1.0, 4.0]] * 9, [[2.0, 1.0]] * 9).times == 2


@given(
    st.lists(st.floats(0.1, 100), min_size=7, max_size=40),
    st.lists(st.floats(0.1, 100), min_size=7, max_size=40),
)
def test_the_ratio_lies_in_its_interval_and_turned_round_is_its_inverse(one, other):
    there, back = lead(samples(one), samples(other)), lead(samples(other), samples(one))
    assert there.low <= there.times <= there.high
    assert there.times == pytest.approx(1 / back.times)
    assert not (there.is_sure and back.is_sure)
