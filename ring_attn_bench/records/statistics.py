"""What a list of times says: its median, how well that is known, and how wide it spreads. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb, hypot, sqrt
from statistics import NormalDist, median, quantiles

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """Of times. low and high hold the median with 95 % confidence; None with too few times."""

    count: int
    median: float
    low: float | None
    high: float | None
    spread: float | None
    """Interquartile range over median; None for a single time."""


def summarize(samples: Sequence[Sequence[float]]) -> Summary | None:
    """Of the slowest rank's times, one list of times by rank for each iteration; None if empty."""
    times = slowest_rank(samples)
    if not times:
        return None
    low, high = median_interval(times) or (None, None)
    return Summary(len(times), median(times), low, high, spread(times))


def slowest_rank(samples: Sequence[Sequence[float]]) -> list[float]:
    """A collective call ends when its last rank does: the maximum over ranks, by iteration."""
    return [max(times) for times in samples if times]


def median_interval(
    times: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Between which their median lies with that confidence; None for too few: at 95 % below 6."""
    ranks, ordered = interval_ranks(len(times), confidence), sorted(times)
    return (ordered[ranks[0] - 1], ordered[ranks[1] - 1]) if ranks else None


def interval_ranks(count: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """The order statistics (counted from 1) that enclose the median with at least `confidence`.

    The number of times below the true median is binomial with p = 1/2 whatever their distribution,
    so X(k) .. X(count + 1 - k) misses it with probability 2 P(Binomial <= k - 1); the largest k
    that keeps this within 1 - confidence is taken. None below 6 times (at 95 %), where none does.
    Conover, Practical Nonparametric Statistics, 3rd ed. (1999), section 3.2; Le Boudec,
    Performance Evaluation of Computer and Communication Systems (2010), theorem 2.1.
    """
    allowed = (1 - Fraction(str(confidence))) / 2 * 2**count
    k, below = 0, 1
    while below <= allowed:
        k += 1
        below += comb(count, k)
    return (k, count + 1 - k) if k else None


def spread(times: Sequence[float]) -> float | None:
    """Interquartile range over median; None for fewer than two times or a median of zero."""
    middle = median(times) if times else 0.0
    if len(times) < 2 or not middle:
        return None
    quartiles = quantiles(times, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / middle


SHARED = 0.005
"""How far all times of a run may be from another run's of one program, as a share and a standard
deviation: one clock, one host.

The suite `ring` was run twice on 2 x H200, three hours and one commit apart. The medians of 65 rows
whose code was the same differ, at all lengths, by 0.4 to 1.0 of their samples' interquartile range:
clocks, temperature, where memory lies, how fast the host is that day. More samples would not help.
"""
OF_SPREAD = 0.6
"""How far one row's median may be besides, in interquartile ranges of its samples."""


def between_runs(spread: float, shared: float = SHARED) -> float:
    """The standard deviation of a median from one run of a program to the next, as a share of it.

    spread: interquartile range over median, of the samples of one run.
    """
    return hypot(shared, OF_SPREAD * spread)


def same_program(spread: float) -> float:
    """By which share medians of two runs of one program may differ, in 95 % of rows."""
    beyond = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return beyond * sqrt(2) * between_runs(spread)


APART = 1.5
"""Times as long as its work says that a rank takes to be named. Of 479 rows of committed runs five
do, forwards of 1k or 2k tokens a GPU: one rank waits for messages when the others are done."""


@dataclass(frozen=True, slots=True)
class SlowestRank:
    """Which rank takes longest, and how many times as long as the others: by time, and by work."""

    rank: int
    factor: float
    by_work: float

    @property
    def is_apart(self) -> bool:
        """Whether the rank is slower than its share of the work explains."""
        return self.factor > APART * self.by_work

    def __str__(self) -> str:
        return f"rank {self.rank} takes {self.factor:.2g} times as long as the others" + (
            f", by its work {self.by_work:.2g}" if self.by_work > 1.05 else ""
        )


def slowest(samples: Sequence[Sequence[float]], imbalance: float | None) -> SlowestRank | None:
    """Of one list of times by rank for each iteration; None where ranks have no times apart.

    imbalance: the busiest rank's work over the mean; None if nobody knows.
    """
    ranks = len(samples[0]) if samples else 0
    if ranks < 2 or any(len(times) != ranks for times in samples):
        return None
    by_rank = [median(times) for times in zip(*samples, strict=True)]
    rank = max(range(ranks), key=by_rank.__getitem__)
    others = (sum(by_rank) - by_rank[rank]) / (ranks - 1)
    busiest = 1.0 if imbalance is None else imbalance
    rest = max((ranks - busiest) / (ranks - 1), 1 / ranks)
    return SlowestRank(rank, by_rank[rank] / others, busiest / rest) if others else None
