"""What is said of a change of medians: how sure, and how it is corrected."""

from math import exp, isfinite, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.compare import noise
from ring_attn_bench.records.statistics import SHARED

times = st.lists(st.floats(0.01, 1e4), min_size=3, max_size=40)


@given(times, times)
def test_a_change_backwards_is_the_same_change(before, after):
    there, back = noise.change([before], [after]), noise.change([after], [before])

    assert there.log == pytest.approx(-back.log)
    assert there.low <= there.log <= there.high
    assert 0 <= there.p <= 1
    assert there.shared <= there.error


@given(times, times, st.floats(1e-3, 1e3))
def test_units_change_nothing(before, after, unit):
    scaled = noise.change([[unit * t for t in before]], [[unit * t for t in after]])
    found = noise.change([before], [after])

    assert scaled.log == pytest.approx(found.log, abs=1e-9)
    assert scaled.error == pytest.approx(found.error)


@pytest.mark.parametrize("few", [[], [[1.0, 1.0]], [[1.0] * 9, [1.0]], [[0.0, 0.0, 0.0]]])
def test_of_too_few_times_and_of_none_at_all_nothing_is_said(few):
    assert noise.change(few, [[1.0] * 9]) is None
    assert noise.change([[1.0] * 9], few) is None


def test_the_interval_holds_no_change_in_95_of_100_pairs_of_runs():
    random = np.random.default_rng(3)

    def run():
        day = random.normal(0, SHARED) + random.normal(0, 0.6 * 0.0135)
        return list(np.exp(day + random.normal(0, 0.01, 15)))

    changes = [noise.change([run()], [run()]) for _ in range(200)]
    held = sum(each.low <= 0 <= each.high for each in changes)

    assert held >= 0.9 * len(changes)
    assert held < len(changes), "an interval that is never wrong is too wide"


def test_samples_that_drift_make_the_error_larger_than_their_number_says():
    random = np.random.default_rng(4)
    steps = np.cumsum(random.normal(0, 0.01, 60))
    drifting, mixed = np.exp(steps), np.exp(random.permutation(steps))

    assert noise._block(np.log(drifting)) > noise._block(np.log(mixed))


def test_more_runs_say_more_and_runs_that_differ_say_less():
    random = np.random.default_rng(5)
    runs = [list(np.exp(random.normal(0, 0.01, 20))) for _ in range(6)]
    apart = [[t * exp(0.1 * at) for t in run] for at, run in enumerate(runs)]

    one, three = noise.change(runs[:1], runs[3:4]), noise.change(runs[:3], runs[3:])
    assert three.error < one.error
    assert noise.change(apart[:3], apart[:3]).error > 3 * three.error


def test_rows_together_are_known_better_but_no_better_than_what_they_share():
    one = noise.Change(log(1.02), 0, 0.04, 0.02, 0.005)
    many = noise.together([one] * 400)

    assert many.log == pytest.approx(one.log)
    assert one.shared < many.error < 0.6 * one.error


def test_rows_of_a_noisy_machine_that_all_moved_together_are_no_change():
    random = np.random.default_rng(6)

    def rows(day):
        return [noise.change([_noisy(random, 0.0)], [_noisy(random, day)]) for _ in range(40)]

    busy = noise.together(rows(0.28))
    assert busy.log == pytest.approx(0.28, abs=0.1)
    assert busy.p > 0.05


def _noisy(random, day):
    return list(np.exp(day + random.normal(0, 0.1) + random.normal(0, 0.35, 20)))


def test_rows_that_contradict_each_other_say_less_together():
    up, down = (noise.Change(sign * 0.2, 0, 0, 0.01, 0.0) for sign in (1, -1))

    assert noise.together([up, down] * 5).p > 0.5


def test_the_correction_is_that_of_benjamini_and_hochberg():
    # their paper's example, table 1 of section 3.2: four of 15 are below 5 %
    given_p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459,
               0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]  # fmt: skip
    found = noise.adjusted(given_p)

    assert sum(p <= 0.05 for p in found) == 4
    assert found[3] == pytest.approx(0.0095 * 15 / 4)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_the_correction_keeps_the_order_and_makes_nothing_surer(given_p):
    found = noise.adjusted(given_p)

    assert all(p <= q <= 1 for p, q in zip(given_p, found, strict=True))
    pairs = sorted(zip(given_p, found, strict=True))
    assert [q for _, q in pairs] == sorted(found)


def test_what_more_is_expected_of_needs_less_to_be_named():
    given_p = [0.02] * 2 + [0.5] * 98
    few, many = [1 / 2] * 2, [1 / 98] * 98

    assert noise.adjusted(given_p)[0] > 0.05
    assert noise.adjusted(given_p, few + many)[0] < 0.05
    assert noise.adjusted(given_p, many + few) != noise.adjusted(given_p, few + many)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), max_size=30))
def test_however_much_is_expected_nothing_is_surer_than_it_was_alone(pairs):
    given_p, weights = [p for p, _ in pairs], [weight for _, weight in pairs]

    assert all(p <= q <= 1 for p, q in zip(given_p, noise.adjusted(given_p, weights), strict=True))


def _rows(random, spread, assumed, count=40, changed=0):
    """Changes that lie about nothing by `spread`, though their error is thought to be `assumed`."""
    logs = random.normal(0, spread, count)
    logs[:changed] += 0.3
    return [noise.Change(x, x - 2 * assumed, x + 2 * assumed, assumed, 0.0) for x in logs]


def test_rows_that_lie_closer_than_was_assumed_have_less_noise_and_some_that_changed_are_none():
    random = np.random.default_rng(7)
    quiet, changed = _rows(random, 0.01, 0.02), _rows(random, 0.01, 0.02, changed=3)

    (alike,), (most,) = (noise.calibrated([rows]) for rows in (quiet, changed))
    assert 0.008 < alike[0].error < 0.015
    assert most[0].error < 0.02
    assert most[0].p < 1e-6, "it did change"
    assert all(a.log == b.log for a, b in zip(alike, quiet, strict=True))
    assert alike[0].high - alike[0].low < quiet[0].high - quiet[0].low


def test_rows_that_lie_farther_than_was_assumed_have_more_noise():
    random = np.random.default_rng(8)

    (wild,) = noise.calibrated([_rows(random, 0.03, 0.02)])
    assert 0.025 < wild[0].error <= 0.04


def test_what_a_host_decides_is_never_surer_than_was_assumed_and_counts_apart():
    random = np.random.default_rng(9)
    steady, busy = _rows(random, 0.005, 0.01), _rows(random, 0.05, 0.2)

    (found,) = noise.calibrated([steady + busy])
    assert found[0].error < 0.01
    assert found[-1].error == pytest.approx(0.2)


def test_a_kernel_whose_rows_all_moved_alike_has_no_more_noise_for_that():
    random = np.random.default_rng(10)
    still = _rows(random, 0.01, 0.02, 30)
    moved = [noise.Change(x.log + 0.1, 0, 0, x.error, 0.0) for x in _rows(random, 0.01, 0.02, 30)]

    alone, beside = noise.calibrated([still]), noise.calibrated([still, moved])
    assert beside[0][0].error == pytest.approx(alone[0][0].error, rel=0.4)
    assert beside[1][0].error < 0.02


def test_of_few_rows_what_was_assumed_is_kept():
    few = _rows(np.random.default_rng(11), 0.001, 0.02, count=noise.ENOUGH - 1)

    assert [x.error for x in noise.calibrated([few])[0]] == pytest.approx([0.02] * len(few))


@pytest.mark.parametrize(
    ("kernels", "rows", "noise_there_is"),
    [
        (25, 1, 1.0), (12, 2, 0.5), (12, 2, 1.0), (10, 3, 1.0), (1, 20, 0.5), (1, 20, 1.0),
        (1, 20, 1.5), (3, 26, 0.5), (3, 26, 1.0), (3, 26, 1.5),
    ],
)  # fmt: skip
def test_where_nothing_changed_95_of_100_name_nothing_however_rows_fall_on_kernels(
    kernels, rows, noise_there_is
):
    random = np.random.default_rng(12)

    def named():
        groups = [_rows(random, 0.02 * noise_there_is, 0.02, rows) for _ in range(kernels)]
        changes = [each for group in noise.calibrated(groups) for each in group]
        return min(noise.adjusted([each.p for each in changes])) <= 0.05

    # of 300 comparisons at 5 %, more than 25 are named once in a hundred
    assert sum(named() for _ in range(300)) <= 25


def test_noise_that_few_rows_show_is_not_known_as_well_as_that_of_many():
    random = np.random.default_rng(13)
    (few,), (many,) = (noise.calibrated([_rows(random, 0.02, 0.02, n)]) for n in (20, 400))

    assert few[0].degrees == pytest.approx(noise.OF_A_ROW * 19)
    assert many[0].degrees > 200
    one = noise.Change(0.06, 0.02, 0.1, 0.02, 0.0, few[0].degrees)
    assert one.p > noise.Change(0.06, 0.02, 0.1, 0.02, 0.0, many[0].degrees).p
    assert few[0].high - few[0].log == pytest.approx(
        0.04 * few[0].shows / noise.share(0.0392), rel=0.02
    )


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_of_times_that_are_all_alike_there_is_an_answer_without_any_spread_between_runs(factor):
    found = noise.change([[1.0] * 9], [[factor] * 9], shared=0.0)

    assert found.p == (1.0 if factor == 1.0 else pytest.approx(0.0, abs=1e-9))
    assert found.ratio == pytest.approx(factor)


@pytest.mark.parametrize("shared", [0.0, 1.0, 1000.0])
def test_however_wide_the_noise_is_there_is_a_number_for_it(shared):
    wild = [[1e-8, 1e12, 1.0]]
    found = noise.change(wild, wild, shared)

    assert all(map(isfinite, (found.shows, noise.share(found.low), noise.share(found.high))))
    assert found.p == 1.0
