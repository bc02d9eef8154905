"""When enough times have been taken: pure arithmetic on raw samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median

from ring_attn_bench.bench.suite import Timing
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.records.statistics import median_interval, slowest_rank

BATCH = 5
"""Calls of one contestant before the next one's turn."""
Times = list[list[float]]
"""One list for each call, with one time in milliseconds for each rank."""


@dataclass
class Series:
    """The samples of one subject so far, and the time that they took."""

    times: Times = field(default_factory=list)
    seconds: float = 0.0
    looks: list[list[GpuLook]] = field(default_factory=list)
    """At the GPUs, by process: of each batch one while calls ran and one afterwards."""

    def add(self, by_rank: list[list[float]], seconds: float) -> None:
        """One batch: a list of times from each rank."""
        self.times += [list(call) for call in zip(*by_rank, strict=True)]
        self.seconds += seconds

    def watched(self, before: Sequence[GpuLook]) -> GpuWatch | None:
        """The GPUs before the first call, at each batch, and after the last; None on a CPU."""
        if not self.looks:
            return None
        return GpuWatch.of([before, *self.looks[::2], self.looks[-1]])

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
        slowest = slowest_rank(self.times)
        interval = median_interval(slowest)
        if interval is None:
            return inf
        return (interval[1] - interval[0]) / 2 / median(slowest)
