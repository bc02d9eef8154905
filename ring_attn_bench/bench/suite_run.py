"""Runs a suite: every entry is checked, the right ones of a case are timed in turns, then checked.

Turns, because clocks, power and neighbours drift: contestants that are to be compared must see the
same minute. Each record is handed on as soon as it is complete.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from ring_attn_bench.bench.gauges import Gauges
from ring_attn_bench.bench.messages import Subject
from ring_attn_bench.bench.sampling import BATCH, Series
from ring_attn_bench.bench.session import Measured, RefusedByWorker, Session
from ring_attn_bench.bench.suite import Entry, Suite, Timing
from ring_attn_bench.bench.tracing import Traces
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import INVARIANTS
from ring_attn_bench.records.record import (
    Accuracy,
    Case,
    Record,
    Samples,
    Speed,
    TensorError,
)
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.group import Group
from ring_attn_bench.workers.reply import WorkerFailed

GroupOf = Callable[[Entry], Group]
MakeRecord = Callable[..., Record]


class RunWatcher(Protocol):
    """Somebody who wants to know how far a run is."""

    def case(self, name: str, contestants: int) -> None:
        """A case begins."""
        ...

    def doing(self, text: str) -> None:
        """What is going on now."""
        ...

    def record(self, record: Record) -> None:
        """A record is complete."""
        ...


@dataclass(eq=False)
class _Match:
    """One contestant and direction while it is being timed."""

    session: Session
    direction: Direction
    accuracy: Accuracy
    started: float
    measured: Measured | None = None
    series: dict[Subject, Series] = field(default_factory=dict)


class SuiteRun:
    """What is to be run, on which groups, and where records go.

    make: builds a record from an entry, a direction and the fields that depend on the outcome.
    watcher: is told what goes on, and gets each finished record.
    traces: keeps one more call of each row that was timed, looked at; None is no such call.
    """

    def __init__(
        self,
        suite: Suite,
        entries: Sequence[Entry],
        group_of: GroupOf,
        make: MakeRecord,
        watcher: RunWatcher,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self._suite = suite
        self._entries = entries
        self._group_of = group_of
        self._make = make
        self._watcher = watcher
        self._random = random.Random(suite.seed)
        self._gauges = Gauges(entries, group_of, suite.case_seconds)

    def run(self) -> None:
        """Every case in turn."""
        for case, entries in groupby(self._entries, key=lambda entry: entry.case):
            self._case(case, list(entries))

    def _case(self, case: Case, entries: Sequence[Entry]) -> None:
        self._watcher.case(case.name, len(entries))
        sessions, matches = [], []
        self._gauge(entries[0])
        for entry in entries:
            self._watcher.doing(f"checking {entry.contestant.name}")
            session = Session(entry, self._group_of(entry), self._suite)
            sessions.append(session)
            matches += self._checked(session)
        self._time(matches)
        for session in sessions:
            self._release(session)

    def _gauge(self, entry: Entry) -> None:
        """Sees to the ceilings of the entry's ring, while no contestant of it holds anything."""
        timing = self._suite.timing
        if timing.enabled and timing.ceilings and self._gauges.of(entry) is None:
            self._watcher.doing("measuring a matrix product, a copy and the link")
            self._gauges.measure(entry)

    def _release(self, session: Session) -> None:
        with suppress(WorkerFailed):  # what it held is gone all the same
            session.release()

    def _checked(self, session: Session) -> list[_Match]:
        """Prepares and judges; emits what is already decided, returns what is to be timed."""
        started = time.monotonic()
        try:
            self._prepare(session, started)
            if not session.directions:
                return []
            accuracy, repeats = session.judge(self._suite.check)
        except WorkerFailed as failure:
            self._failed(session, session.directions, failure, started)
            return []
        return self._right(session, accuracy, repeats, started)

    def _prepare(self, session: Session, started: float) -> None:
        """Leaves in `session.directions` those that are not refused; emits the others."""
        wanted = session.entry.directions
        forward = tuple(d for d in wanted if d is Direction.FORWARD)
        # all, or without the backward if it is that which the backend lacks
        for attempt in dict.fromkeys((wanted, forward)):
            if not attempt:
                continue
            refusal = self._refusal(session, attempt)
            if refusal is None:
                return
            session.directions = forward if attempt != forward else ()
            for direction in attempt:
                if direction not in session.directions:
                    status = Status.UNSUPPORTED
                    self._finish(session, direction, started, status=status, reason=refusal)

    def _refusal(self, session: Session, directions: tuple[Direction, ...]) -> str | None:
        try:
            session.prepare(directions)
        except RefusedByWorker as refusal:
            return str(refusal)
        return None

    def _right(
        self,
        session: Session,
        accuracy: dict[Direction, Accuracy],
        repeats: bool,
        started: float,
    ) -> list[_Match]:
        matches = []
        for direction, judged in accuracy.items():
            reason = _what_is_wrong(judged, repeats)
            untimed = session.interpreted or not self._suite.timing.enabled
            if reason:
                status = Status.WRONG
                self._finish(
                    session, direction, started, status=status, reason=reason, accuracy=judged
                )
            elif untimed:
                self._finish(session, direction, started, status=Status.OK, accuracy=judged)
            else:
                matches.append(_Match(session, direction, judged, started))
        return matches

    def _time(self, matches: list[_Match]) -> None:
        """Turns of all matches, in a new random order each round, until each has enough."""
        waiting = list(matches)
        timed: list[_Match] = []
        while waiting:
            self._watcher.doing(f"timing {len(waiting)} in turns")
            self._random.shuffle(waiting)
            for match in list(waiting):
                if match not in waiting:
                    continue  # lost in this round, with another direction of its contestant
                try:
                    if not self._turn(match):
                        continue
                    waiting.remove(match)
                    timed.append(match)
                except WorkerFailed as failure:
                    self._lost(match, waiting, failure)
                if all(other.session is not match.session for other in waiting):
                    self._judge_again([x for x in timed if x.session is match.session])

    def _judge_again(self, timed: list[_Match]) -> None:
        """A contestant's directions, all timed: on record if they are still right.

        A kernel that is right in its first calls may go wrong in later ones (a cache, a counter, a
        buffer that is used again), and a speed says that it did not. One pass judges all of them.
        """
        if not timed:
            return
        session = timed[0].session
        self._watcher.doing(f"checking {session.entry.contestant.name} again")
        directions = tuple(match.direction for match in timed)
        try:
            accuracy, repeats = session.judge_again(self._suite.check, directions)
        except WorkerFailed as failure:
            reason = f"when it was judged again after timing: {failure.reason}"
            failure = WorkerFailed(failure.status, reason, failure.stderr)
            self._failed(session, directions, failure, timed[0].started)
            return
        for match in timed:
            judged = accuracy[match.direction]
            reason = _what_is_wrong(judged, repeats)
            if not reason:
                self._timed(match)
                continue
            self._finish(
                session,
                match.direction,
                match.started,
                status=Status.WRONG,
                reason=f"right before it was timed, and wrong afterwards on other inputs: {reason}",
                accuracy=judged,
            )

    def _turn(self, match: _Match) -> bool:
        """One batch of each subject that still wants one; whether all have enough."""
        timing, session = self._suite.timing, match.session
        if match.measured is None:
            match.measured = session.measure(match.direction)
            match.series = {subject: Series() for subject in _subjects(session.entry.case, timing)}
        for subject, series in list(match.series.items()):
            if series.stop(timing):
                continue
            count = min(BATCH, timing.max_samples - len(series.times))
            warmup = 1 if series.times else timing.warmup
            if not session.sample(match.direction, subject, count, warmup, series):
                del match.series[subject]
        return all(series.stop(timing) for series in match.series.values())

    def _timed(self, match: _Match) -> None:
        ring, measured = match.series[Subject.RING], match.measured
        assert measured is not None  # before the first turn
        empty = Series()
        one_call = match.series.get(Subject.ONE_CALL, empty).times
        samples = Samples(
            ring=_rounded(ring.times),
            twin=_rounded(match.series.get(Subject.TWIN, empty).times),
            one_gpu=_rounded(one_call),
            graph=_rounded(match.series.get(Subject.GRAPH, empty).times),
            one_gpu_graph=_rounded(match.series.get(Subject.ONE_CALL_GRAPH, empty).times),
            stop=ring.stop(self._suite.timing),
        )
        work: dict[str, Any] = measured.work | ({} if one_call else {"one_gpu_flops": None})
        record = self._finish(
            match.session,
            match.direction,
            match.started,
            status=Status.OK,
            accuracy=match.accuracy,
            memory=measured.memory,
            speed=Speed(samples=samples, **work),
            gpus=ring.watched(measured.looks),
            ceilings=self._gauges.of(match.session.entry),
            kernels=measured.kernels,
        )
        if self._traces is not None:
            self._look(match, record, self._traces)

    def _look(self, match: _Match, record: Record, traces: Traces) -> None:
        """One more call of a row whose record is kept already."""
        self._watcher.doing(f"looking at {match.session.entry.contestant.name}")
        try:
            looks = match.session.look(match.direction)
        except WorkerFailed as failure:
            traces.failed(record, failure.reason)
            return
        if looks is not None:
            traces.keep(record, looks)

    def _lost(self, match: _Match, waiting: list[_Match], failure: WorkerFailed) -> None:
        """A match's group failed: nothing more is tried with that contestant on that case."""
        lost = [other for other in waiting if other.session is match.session]
        for other in lost:
            waiting.remove(other)
        directions = [other.direction for other in lost]
        self._failed(match.session, directions, failure, match.started)

    def _failed(
        self,
        session: Session,
        directions: Sequence[Direction],
        failure: WorkerFailed,
        started: float,
    ) -> None:
        for direction in directions:
            self._finish(
                session,
                direction,
                started,
                status=failure.status,
                reason=failure.reason,
                stderr=failure.stderr,
            )

    def _finish(
        self,
        session: Session,
        direction: Direction,
        started: float,
        **outcome: Any,  # noqa: ANN401 - the fields of Record, which checks them
    ) -> Record:
        record = self._make(
            entry=session.entry,
            direction=direction,
            interpreted=session.interpreted,
            took=session.took,
            predicted=session.predicted.get(direction),
            backend_version=session.version,
            seconds=round(time.monotonic() - started, 3),
            **outcome,
        )
        self._watcher.record(record)
        return record


def _subjects(case: Case, timing: Timing) -> tuple[Subject, ...]:
    """What may be timed of a contestant: a ring beside what it is without, calls in graphs."""
    if case.cache is not None:
        return Subject.RING, Subject.GRAPH
    graphs = (Subject.GRAPH, Subject.ONE_CALL_GRAPH) if timing.wants_graphs_of(case) else ()
    return Subject.RING, Subject.TWIN, Subject.ONE_CALL, *graphs


_CALLS = {
    2: "right in the first call, and in the second ",
    3: "right when it is called, and in a CUDA graph ",
}
"""Of a call that is judged behind others, what was right before."""


def _what_is_wrong(accuracy: Accuracy, repeats: bool) -> str:
    """Which results are out of bounds, or an empty text."""
    wrong = [
        f"{name} (max abs {_shown(error.max_abs)} of {error.bound_max_abs:.2g}, "
        f"rmse {_shown(error.rmse)} of {error.bound_rmse:.2g} allowed{_in_head(error)})"
        for name, error in accuracy.tensors.items()
        if not error.is_right
    ]
    if wrong:
        return f"{_CALLS.get(accuracy.call, '')}too far from float64: " + ", ".join(wrong)
    if accuracy.broken:
        return _what_is_broken(accuracy)
    return "" if repeats else "two runs on the same inputs gave different bits"


def _what_is_broken(accuracy: Accuracy) -> str:
    """The invariants that do not hold, in words, with what does not keep to each."""
    results: dict[str, list[str]] = {}
    for invariant, name in accuracy.broken:
        departure = (accuracy.invariants or {})[invariant][name]
        largest, most = _shown(departure.max_abs), departure.allowed_max_abs
        allowed = f"{largest} of {most:.2g} allowed" if most else f"{largest}, and nothing allowed"
        results.setdefault(invariant, []).append(f"{name} (max abs {allowed})")
    return "; ".join(
        f"invariant {invariant} does not hold ({INVARIANTS[invariant]}): {', '.join(names)}"
        for invariant, names in results.items()
    )


def _in_head(error: TensorError) -> str:
    """Which head is wrong, where it is one that the mean over all of them would hide."""
    head = error.head
    if head is None or not error.is_right_as_a_whole:
        return ""
    return (
        f"; in head {head.head} of batch entry {head.batch} alone {_shown(head.rmse)} of "
        f"{head.bound_rmse:.2g}"
    )


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"


def _rounded(times: list[list[float]]) -> list[list[float]]:
    """To a tenth of a microsecond: below what events resolve, and half the file."""
    return [[round(one, 4) for one in call] for call in times]
