"""Calls on one GPU that are compared with each other, for the scripts that measure one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from statistics import median

import torch

WARMUP = 3
"""Rounds that do not count."""
FLUSHED_BYTES = 400 << 20
"""Written before each call: more than any L2 cache."""
FLUSHES = 10
"""They take an H200 1 ms together, in which the host has queued what is timed: a call through
autograd takes it up to 0.5 ms."""


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, medians: in each round all run once, in random order, from a cold L2.

    Timed by CUDA events, on the current device and stream.
    """
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, random = list(calls), Random(1)
    for turn in range(WARMUP + rounds):
        random.shuffle(order)
        for name in order:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(FLUSHES):
                flushed.zero_()
            begin.record()
            calls[name]()
            end.record()
            torch.cuda.synchronize()
            if turn >= WARMUP:
                times[name].append(begin.elapsed_time(end))
    return {name: median(taken) for name, taken in times.items()}
