"""By how much one contestant is faster than another, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ring_attn_bench.records.statistics import CONFIDENCE, median_interval, slowest_rank
from ring_attn_bench.report.page.model import Cell

_EACH = 1 - (1 - CONFIDENCE) / 2
"""Confidence of each median, so that both hold with 95 % (Bonferroni); nothing else is assumed."""
HOW = (
    "how many times as long it takes, in brackets between what with 95 % confidence, from "
    "intervals of both medians at 97.5 %, which assume no distribution; without brackets there "
    "were fewer than 7 samples of one"
)


@dataclass(frozen=True, slots=True)
class Lead:
    """Time of the slower over that of the faster, and between what it is; None if not known."""

    times: float
    low: float | None
    high: float | None

    @property
    def is_sure(self) -> bool:
        """Whether the faster one is faster beyond the noise of this run."""
        return self.low is not None and self.low > 1

    def cell(self) -> Cell:
        """1.13x [1.09, 1.18], quiet where it may be chance."""
        return Cell(str(self), self.times, "" if self.is_sure else "quiet")

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.times:.2f}x"
        return f"{self.times:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def lead(slower: Sequence[Sequence[float]], faster: Sequence[Sequence[float]]) -> Lead:
    """From raw times by iteration and rank, of which there are some; the slowest rank counts."""
    slow, fast = slowest_rank(slower), slowest_rank(faster)
    times = median(slow) / median(fast)
    above, below = median_interval(slow, _EACH), median_interval(fast, _EACH)
    if above is None or below is None or not below[0]:
        return Lead(times, None, None)
    return Lead(times, above[0] / below[1], above[1] / below[0])
