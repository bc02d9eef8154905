"""When sampling stops, and that the interval it goes by holds the median as often as it says."""

from math import comb, inf

import pytest
import torch

from ring_attn_bench.bench.sampling import Series
from ring_attn_bench.bench.suite import Timing

TIMING = Timing(min_samples=10, max_samples=50, precision=0.01, seconds=5.0)
STEADY = [10.0] * 60
SHAKY = [10.0, 20.0] * 30


def series(times, seconds=0.0):
    """Of one rank."""
    found = Series()
    found.add([times], seconds)
    return found


@pytest.mark.parametrize(
    ("times", "seconds", "stop"),
    [
        (STEADY[:9], 0.0, ""),
        (STEADY[:10], 0.0, "precise"),
        (STEADY[:10], 99.0, "precise"),
        (SHAKY[:10], 0.0, ""),
        (SHAKY[:49], 4.9, ""),
        (SHAKY[:50], 0.0, "max_samples"),
        (SHAKY[:50], 99.0, "max_samples"),
        (SHAKY[:10], 5.1, "time"),
        (SHAKY[:3], 5.1, "time"),
        (STEADY[:3], 5.1, "time"),
        (STEADY[:2], 5.1, ""),
        ([], 99.0, ""),
    ],
)
def test_sampling_stops_for_a_reason(times, seconds, stop):
    assert series(times, seconds).stop(TIMING) == stop


def test_the_precision_asked_for_decides():
    times = [10.0 + 0.01 * i for i in range(20)]
    share = series(times).uncertainty()
    assert series(times).stop(Timing(precision=share)) == "precise"
    assert series(times).stop(Timing(precision=share * 0.99)) == ""


def test_batches_and_their_seconds_add_up_and_the_slowest_rank_counts():
    found = Series()
    found.add([[1.0, 2.0], [3.0, 1.0]], 2.0)
    found.add([[5.0], [4.0]], 1.5)
    assert found.times == [[1.0, 3.0], [2.0, 1.0], [5.0, 4.0]]
    assert found.seconds == 3.5

    fast, slow = [1.0 + 0.1 * i for i in range(20)], [10.0 + 0.1 * i for i in range(20)]
    both = Series()
    both.add([fast, slow[::-1]], 0.0)
    assert both.uncertainty() == series(slow).uncertainty()


def test_a_rank_without_its_time_is_an_error():
    with pytest.raises(ValueError, match=r"shorter"):
        Series().add([[1.0, 2.0], [1.0]], 0.0)


def test_the_order_and_the_unit_of_times_do_not_matter():
    random = torch.Generator().manual_seed(0)
    times = (1 + torch.rand(25, generator=random)).tolist()
    assert series(times[::-1]).uncertainty() == series(times).uncertainty()
    thousand = [1000 * time for time in times]
    assert series(thousand).uncertainty() == pytest.approx(series(times).uncertainty())


@pytest.mark.parametrize("count", range(1, 6))
def test_fewer_than_six_samples_say_nothing_of_the_median(count):
    assert series(STEADY[:count]).uncertainty() == inf


def dropped(count):
    """How many of `count` sorted samples the interval leaves out on each side."""
    ranks = [float(i) for i in range(1, count + 1)]
    width = series(ranks).uncertainty() * 2 * (count + 1) / 2
    return round(count - 1 - width) // 2


@pytest.mark.parametrize("count", [6, 7, 8, 10, 20, 25, 50, 101])
def test_the_interval_is_the_narrowest_that_holds_the_median_in_95_of_100(count):
    def held(left_out):
        """The median is held unless at most `left_out` samples are on one side of it."""
        return 1 - 2 * sum(comb(count, below) for below in range(left_out + 1)) / 2**count

    assert held(dropped(count)) >= 0.95
    assert held(dropped(count) + 1) < 0.95


@pytest.mark.parametrize("count", [6, 10, 25, 50])
def test_the_interval_of_skewed_times_holds_their_median_in_95_of_100_experiments(count):
    random = torch.Generator().manual_seed(count)
    times = torch.randn(20_000, count, generator=random, dtype=torch.float64).exp()  # median 1
    ordered = times.sort(dim=1).values
    low, high = ordered[:, dropped(count)], ordered[:, -dropped(count) - 1]
    coverage = ((low <= 1) & (high >= 1)).double().mean().item()
    assert 0.947 < coverage < 0.985


def test_the_uncertainty_is_half_the_interval_as_a_share_of_the_median():
    random = torch.Generator().manual_seed(3)
    times = (1 + torch.rand(25, generator=random, dtype=torch.float64)).sort().values
    low, high = times[dropped(25)], times[-dropped(25) - 1]
    share = ((high - low) / 2 / times.median()).item()
    assert series(times.tolist()).uncertainty() == pytest.approx(share, rel=1e-12)
