"""What will not run on this machine, and how long the rest takes, before any of it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ring_attn_bench import registry
from ring_attn_bench.bench.flops import area, flops
from ring_attn_bench.bench.sampling import BATCH
from ring_attn_bench.bench.suite import Entry, Suite, Timing
from ring_attn_bench.errors import BackendUnavailable, clause
from ring_attn_bench.records.values import Environment

LONG_ON_A_CPU = 8192
"""Tokens of a sequence: eager attention over them takes a CPU of two cores a minute and more."""


def unavailable(names: Iterable[str]) -> dict[str, str]:
    """By name, why this process cannot load it."""
    reasons = {}
    for name in names:
        try:
            registry.load_contestant(name)
        except BackendUnavailable as error:
            reasons[name] = error.reason
    return reasons


def sentences(
    entries: Sequence[Entry], reasons: Mapping[str, str], environment: Environment
) -> Iterator[str]:
    """What a person should know who waits for these to be measured."""
    lost = [entry for entry in entries if entry.contestant.backend in reasons]
    if lost:
        names = dict.fromkeys(entry.contestant.backend for entry in lost)
        total, count = (sum(len(e.directions) for e in some) for some in (entries, lost))
        yield f"{count} of these {total} cannot run here, and will be `unsupported`:"
        yield from (f"  {name}: {clause(reasons[name])}." for name in names)
    if not environment.get("gpu") and any(entry.contestant.playing for entry in entries):
        yield (
            "There is no CUDA device: CPU processes play the ranks of the larger ring. That shows "
            "that it runs and is right; its times say nothing about GPUs."
        )
    able = [entry for entry in entries if entry not in lost]
    if is_long(able, environment):
        longest = max((entry.case for entry in able), key=lambda case: case.seqlen_total)
        made_for_it = "cpu" if longest.cache is None else "decode-cpu"
        yield (
            "There is no CUDA device: the rest runs on the CPU, with up to "
            f"{longest.seqlen_total:,} tokens, which can take hours. The suite {made_for_it} is "
            "made for it."
        )


def is_long(able: Sequence[Entry], environment: Environment) -> bool:
    """Whether the machine may take hours for these, however few they are: `time` knows no such."""
    long = (entry.case.seqlen_total > LONG_ON_A_CPU for entry in able)
    return not environment.get("gpu") and any(long)


@dataclass(frozen=True)
class _RunPace:
    """Seconds: to start a worker group, to judge a contestant on a case, to time a direction.

    tflops: by which long calls take longer than that; None where nobody waits for long ones.
    """

    start: float
    judge: float
    time: float
    tflops: float | None


_PACES = {True: _RunPace(6.0, 2.5, 0.6, 400.0), False: _RunPace(5.0, 0.4, 0.3, None)}
"""On GPUs, by 7 committed runs of 14 to 141 records, which took 0.4 to 2.2 times as long as this
says, the most where kernels were compiled; on a CPU by the suite `cpu` on two cores. Kernels make
500 to 650 TFLOP/s of an H200, other people's rings less."""
_SUBJECTS, _IN_GRAPHS = 3, 2
"""What is timed of a contestant at most: itself, its twin, one call; the first and the last in
graphs."""


def seconds(entries: Sequence[Entry], suite: Suite, *, gpu: bool) -> float:
    """About how long these take."""
    pace = _PACES[gpu]
    groups = {(entry.contestant.backend, entry.case.world_size) for entry in entries}
    taken = len(groups) * pace.start + len(entries) * pace.judge
    if not suite.timing.enabled:
        return taken
    return taken + sum(_timing(entry, suite.timing, pace) for entry in entries)


def _timing(entry: Entry, timing: Timing, pace: _RunPace) -> float:
    """Of all its directions: of calls that are over at once, or as many as must be made."""
    if pace.tflops is None:
        return len(entry.directions) * pace.time
    devices = 1 if entry.contestant.played == "loopback" else entry.case.world_size
    pairs = area(entry.case) / devices
    calls = (
        flops(entry.case, direction, 1) * pairs / pace.tflops / 1e12
        for direction in entry.directions
    )
    subjects = _SUBJECTS + _IN_GRAPHS * timing.wants_graphs_of(entry.case)
    return sum(max(pace.time, subjects * one * _count(one, timing)) for one in calls)


def _count(one: float, timing: Timing) -> float:
    """Calls of a subject that take so many seconds each: the fewest, or as many as the time has.

    A batch is made whole.
    """
    batch = min(BATCH, timing.max_samples)
    return timing.warmup + max(batch, min(timing.min_samples, timing.seconds / one))


def time(entries: Sequence[Entry], suite: Suite, *, gpu: bool) -> str:
    """About how long these take, in a sentence."""
    groups = {(entry.contestant.backend, entry.case.world_size) for entry in entries}
    timed = sum(len(entry.directions) for entry in entries) if suite.timing.enabled else 0
    taken = seconds(entries, suite, gpu=gpu)
    about = f"{round(taken)} s" if taken < 90 else f"{round(taken / 60)} min"
    return (
        f"About {about}, or from half to twice that. Worker groups to start: {len(groups)}; "
        f"contestants to judge: {len(entries)}; times to take: {timed}. Kernels that are compiled "
        "at their first use, or run in an interpreter, add minutes."
    )
