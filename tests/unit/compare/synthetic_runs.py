"""More runs of a run that was made: its own samples, drawn again, with noise between the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp

import numpy as np

from ring_attn_bench.compare.sides import ComparedSide
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.statistics import slowest_rank, spread

SHARED = 0.004
"""Of what two runs of one program differ by, what all rows share."""
OF_SPREAD = 0.5
"""And what each has of its own, in interquartile ranges of its samples."""


def another_run(
    records: Iterable[Record], seed: int, slowed: Callable[[Record], float] = lambda record: 1.0
) -> dict[tuple[str, str, str], Record]:
    """What the same program might have measured on another day; slowed: by what factor a row is."""
    random = np.random.default_rng(seed)
    day = random.normal(0, SHARED)
    return {
        record.key: _again(record, random, day, slowed(record))
        for record in records
        if record.speed is not None
    }


def _again(record: Record, random: np.random.Generator, day: float, factor: float) -> Record:
    times = slowest_rank(record.speed.samples.ring)
    own = random.normal(0, OF_SPREAD * min(spread(times) or 0.0, 0.5))
    factor *= exp(day + own)
    drawn = random.choice(times, len(times))
    samples = record.speed.samples.model_copy(update={"ring": [[factor * t] for t in drawn]})
    speed = record.speed.model_copy(update={"samples": samples})
    return record.model_copy(update={"speed": speed})


def side_of(name: str, *runs: dict) -> ComparedSide:
    keys = dict.fromkeys(key for run in runs for key in run)
    return ComparedSide(
        name, len(runs), {k: tuple(run[k] for run in runs if k in run) for k in keys}
    )
