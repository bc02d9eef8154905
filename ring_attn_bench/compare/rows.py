"""One row of two sides: how each ended, and whether time, errors and memory are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, log1p
from statistics import median
from typing import TypeGuard

from ring_attn_bench.compare import noise
from ring_attn_bench.compare.noise import Change
from ring_attn_bench.compare.sides import ComparedSide, Key, worst
from ring_attn_bench.compare.why import why
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.statistics import CONFIDENCE, SHARED, slowest_rank
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import MIB
from ring_attn_bench.ring.options import texts

PAGE = 2 * MIB
"""What a driver hands out: two runs of one program keep one more or one less."""
MOST_ONE_ELEMENT = 1.5
"""How much larger the largest error of a tensor may become: one element decides it, and another
order of adding up changes that one, but not by half."""


IN_A_GRAPH = "in a graph"
HOPELESS = 2.0
"""A row that would not show so much more, three times the time, says nothing: a host that is busy
with other things, unless what it did change by is beyond even that. Of the committed runs' rows 1 %
are."""
NO_ERROR = 1e-3
"""A change below this share of plain PyTorch's own rms error is none: of a result that was exact,
the last bit is no regression."""


class Verdict(StrEnum):
    """What is said of a row's time on the second side, beside the first."""

    SLOWER = "SLOWER"
    """By at least the effect, and beyond the noise of all rows that were compared."""
    UNSURE = "UNSURE"
    """Beyond this row's own noise, and not beyond that of so many rows; or too noisy for anything
    to be beyond it; or too few times."""
    FASTER = "FASTER"
    """By at least the effect, the other way, and as sure as SLOWER."""
    SAME = "SAME"
    """Within the noise, or by less than the effect."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a change counts, as shares. error: of a tensor's rms error; memory: of bytes,
    more than 2 MiB; shared: the spread between runs that all rows may have in common."""

    effect: float = 0.01
    error: float = 0.02
    memory: float = 0.01
    shared: float = SHARED


@dataclass(frozen=True, slots=True)
class Medians:
    """Medians in milliseconds, and what is said of them. change, p: None with too few times."""

    before: float
    after: float
    change: Change | None
    verdict: Verdict = Verdict.UNSURE
    p: float | None = None
    """Adjusted for all rows that were compared."""


def judged(change: Change, p: float | None, limits: Limits) -> Verdict:
    """What is said of a change. p: that of no change, adjusted for all that are compared."""
    allowed = 1 - CONFIDENCE
    if change.shows > HOPELESS and not change.is_beyond(log1p(HOPELESS)):
        return Verdict.UNSURE
    if abs(change.log) < log1p(limits.effect):
        return Verdict.SAME
    if p is not None and p <= allowed:
        return Verdict.SLOWER if change.log > 0 else Verdict.FASTER
    return Verdict.UNSURE if change.p <= allowed else Verdict.SAME


@dataclass(frozen=True, slots=True)
class ChangedSize:
    """An error or an amount of memory that is not what it was."""

    what: str
    before: float
    after: float
    worse: bool


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """What both sides have. before, after: records of that row, one of each run.

    graph: of the same calls in a CUDA graph, where no host is in the way.
    """

    key: Key
    before: tuple[Record, ...]
    after: tuple[Record, ...]
    time: Medians | None
    sizes: tuple[ChangedSize, ...]
    graph: Medians | None = None

    @property
    def times(self) -> dict[str, Medians]:
        """By how calls are made, in words: as they are, and in a graph."""
        both = {"": self.time, IN_A_GRAPH: self.graph}
        return {how: times for how, times in both.items() if times is not None}

    @property
    def steadier(self) -> Change | None:
        """Of the time that tells more: in a graph, if it was measured there."""
        changes = (times.change for times in (self.graph, self.time) if times is not None)
        return next((change for change in changes if change is not None), None)

    @property
    def verdict(self) -> Verdict | None:
        """Of the times together. What calls leave open, because a host decides, a graph closes."""
        known = [times for times in self.times.values() if times.change is not None]
        said = [times.verdict for times in known or self.times.values()]
        for sure in (Verdict.SLOWER, Verdict.FASTER):
            if sure in said:
                return sure
        return said[-1] if said else None

    @property
    def statuses(self) -> tuple[Status, Status]:
        """The statuses of the row in the worst run of each side."""
        return worst(self.before).status, worst(self.after).status

    @property
    def lost(self) -> bool:
        """Whether the row was right, and is no longer."""
        was, now = self.statuses
        return was is Status.OK and now is not Status.OK

    @property
    def won(self) -> bool:
        """Whether the row is right, and was not."""
        was, now = self.statuses
        return was is not Status.OK and now is Status.OK

    @property
    def fails(self) -> bool:
        """Whether somebody has to mend it now, and had not."""
        was, now = self.statuses
        return was is not Status.OK and now.is_failure and not was.is_failure

    @property
    def gone(self) -> tuple[str, ...]:
        """Of a row that is right on both sides, what only the first says of it."""
        if self.statuses != (Status.OK, Status.OK):
            return ()
        old, new = (_said(side) for side in (self.before, self.after))
        return tuple(what for what in old if what not in new)

    @property
    def slower(self) -> bool:
        """Whether the row is slower beyond doubt."""
        return self.verdict is Verdict.SLOWER

    @property
    def regressions(self) -> tuple[str, ...]:
        """What is worse, each in a few words."""
        was, now = self.statuses
        words = [f"was {was.value}, is {now.value}"] if self.lost or self.fails else []
        for how, times in self.times.items():
            if times.verdict is Verdict.SLOWER and times.change is not None:
                words.append(f"slower by {100 * (times.change.ratio - 1):.1f} %{how and ' '}{how}")
        return (*words, *(f"more {size.what}" for size in self.sizes if size.worse))

    @property
    def why(self) -> tuple[str, ...]:
        """What may have changed it, a sentence each: see `compare/why.py`."""
        return why(self.before, self.after)

    @property
    def took(self) -> str:
        """Where `auto` chose something else: `schedule steps -> gather`."""
        old, new = (_taken(side) for side in (self.before, self.after))
        pairs = ((name, word, new.get(name, word)) for name, word in old.items())
        return ", ".join(f"{name} {was} -> {now}" for name, was, now in pairs if was != now)


def _taken(records: Sequence[Record]) -> dict[str, str]:
    took = next((record.took for record in records if record.took is not None), None)
    return {} if took is None else texts(took)


def _said(records: Sequence[Record]) -> tuple[str, ...]:
    """What is known of a row in any run, in words."""
    times = {"time": _times, f"time {IN_A_GRAPH}": _graph_times}
    timed = (name for name, of in times.items() if any(map(of, records)))
    errors = (f"error of {name}" for name in _largest_errors(records))
    return (*timed, *errors, *_most_bytes(records))


def row(key: Key, before: ComparedSide, after: ComparedSide, limits: Limits) -> ComparedRow:
    """What both sides have of that key, its time not judged yet."""
    old, new = before.records[key], after.records[key]
    right = all(record.status is Status.OK for record in (*old, *new))
    if not right:
        return ComparedRow(key, old, new, None, ())
    sizes = (*_errors(old, new, limits), *_memory(old, new, limits))
    time, graph = (_time(old, new, of, limits) for of in (_times, _graph_times))
    return ComparedRow(key, old, new, time, sizes, graph)


def _time(
    old: Sequence[Record], new: Sequence[Record], of: Callable[[Record], list[float]],
    limits: Limits,
) -> Medians | None:  # fmt: skip
    before, after = ([times for record in side if (times := of(record))] for side in (old, new))
    if not before or not after:
        return None
    change = noise.change(before, after, limits.shared)
    return Medians(_middle(before), _middle(after), change)


def _middle(runs: Sequence[Sequence[float]]) -> float:
    return median(median(times) for times in runs)


def _times(record: Record) -> list[float]:
    """None of an interpreter, whose times say nothing about a kernel."""
    if record.speed is None or record.interpreted:
        return []
    return slowest_rank(record.speed.samples.ring)


def _graph_times(record: Record) -> list[float]:
    """Of the same calls in a CUDA graph, where they were in one."""
    if record.speed is None or record.interpreted:
        return []
    return slowest_rank(record.speed.samples.graph)


def _errors(old: Sequence[Record], new: Sequence[Record], limits: Limits) -> Iterator[ChangedSize]:
    """By tensor; of several runs the largest."""
    before, after = (_largest_errors(side) for side in (old, new))
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            continue
        least = NO_ERROR * max(was.pytorch, now.pytorch)
        if _differ(was.rms, now.rms, 1 + limits.error, least):
            yield ChangedSize(f"error of {name}", was.rms, now.rms, now.rms > was.rms)
        elif _differ(was.most, now.most, MOST_ONE_ELEMENT, least):
            yield ChangedSize(f"largest error of {name}", was.most, now.most, now.most > was.most)


def _differ(was: float, now: float, factor: float, least: float) -> bool:
    return abs(now - was) > least and max(was, now) > factor * min(was, now)


@dataclass(frozen=True, slots=True)
class _Error:
    """Of a tensor, over runs: rms, largest, and plain PyTorch's rms."""

    rms: float = 0.0
    most: float = 0.0
    pytorch: float = 0.0


def _largest_errors(records: Sequence[Record]) -> dict[str, _Error]:
    errors: dict[str, _Error] = {}
    for record in records:
        for name, error in record.accuracy.tensors.items() if record.accuracy else ():
            if _is_number(error.rmse) and _is_number(error.max_abs):
                known = errors.get(name, _Error())
                errors[name] = _Error(
                    max(known.rms, error.rmse), max(known.most, error.max_abs),
                    max(known.pytorch, error.pytorch_rmse),
                )  # fmt: skip
    return errors


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and isfinite(value)


def _memory(old: Sequence[Record], new: Sequence[Record], limits: Limits) -> Iterator[ChangedSize]:
    """On a GPU: a CPU's allocator keeps no peak."""
    before, after = (_most_bytes(side) for side in (old, new))
    for name in before.keys() & after.keys():
        was, now = before[name], after[name]
        if abs(now - was) > PAGE and abs(now - was) > limits.memory * was:
            yield ChangedSize(name, was / MIB, now / MIB, now > was)


def _most_bytes(records: Sequence[Record]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for record in records:
        if record.memory is None or not record.environment.get("gpu"):
            continue
        named = {"MiB a call": record.memory.peak_extra_bytes, "MiB kept": record.memory.kept_bytes}
        for name, by_rank in named.items():
            if by_rank:
                sizes[name] = max(sizes.get(name, 0), *by_rank)
    return sizes
