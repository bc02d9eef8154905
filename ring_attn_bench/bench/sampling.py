"""When enough times have been taken: pure arithmetic on raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb, inf
from statistics import median

from ring_attn_bench.bench.suite import Timing

Times = list[list[float]]
"""One list for each call, with one time in milliseconds for each rank."""


@dataclass
class Series:
    """The samples of one subject so far, and the time that they took."""

    times: Times = field(default_factory=list)
    seconds: float = 0.0

    def add(self, by_rank: list[list[float]], seconds: float) -> None:
        """One batch: a list of times from each rank."""
        self.times += [list(call) for call in zip(*by_rank, strict=True)]
        self.seconds += seconds

    def stop(self, timing: Timing) -> str:
        """Why no more samples are wanted (`precise`, `max_samples`, `time`), or an empty text."""
        if len(self.times) < timing.min_samples:
            return "time" if self.seconds > timing.seconds and len(self.times) >= 3 else ""
        if len(self.times) >= timing.max_samples:
            return "max_samples"
        if self.uncertainty() <= timing.precision:
            return "precise"
        return "time" if self.seconds > timing.seconds else ""

    def uncertainty(self) -> float:
        """Half the 95 % interval of the median of the slowest ranks' times, as a share of it."""
        slowest = [max(call) for call in self.times]
        interval = median_interval(slowest)
        if interval is None:
            return inf
        return (interval[1] - interval[0]) / 2 / median(slowest)


def median_interval(times: Sequence[float]) -> tuple[float, float] | None:
    """Between which their median lies with 95 % confidence; None below 6 of them."""
    rank = _interval_rank(len(times))
    if rank is None:
        return None
    ordered = sorted(times)
    return ordered[rank], ordered[-rank - 1]


def _interval_rank(count: int) -> int | None:
    """The r for which [x_r, x_(n-1-r)] of n sorted samples holds the median with 95 % or more.

    The number of samples below the median is binomial(n, 1/2); None below 6 samples.
    """
    rank, outside = None, 0.0
    for below in range(count // 2):
        outside += comb(count, below) / 2.0**count
        if 2 * outside > 0.05:
            break
        rank = below
    return rank
