"""Looks for the longest sequence of every contestant of a suite, one direction at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ring_attn_bench.bench import start
from ring_attn_bench.bench.messages import Subject
from ring_attn_bench.bench.run import Groups
from ring_attn_bench.bench.sampling import Series
from ring_attn_bench.bench.session import RefusedByWorker, Session
from ring_attn_bench.bench.setup import Setup
from ring_attn_bench.bench.suite import Entry, Suite
from ring_attn_bench.errors import Interrupted, InvalidArgument, Terminated
from ring_attn_bench.longest.search import Attempt, Lengths, search
from ring_attn_bench.records import limit as limits
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import INVARIANTS, Invariants
from ring_attn_bench.records.folder import folder_for
from ring_attn_bench.records.limit import Limit
from ring_attn_bench.records.lock import alone_in
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Environment
from ring_attn_bench.workers.group import Group
from ring_attn_bench.workers.reply import WorkerFailed


class LongestWatcher(Protocol):
    """Somebody who wants to know how far the search is."""

    def heading(self, lines: Sequence[str], total: int) -> None:
        """What is looked for, and of how many."""
        ...

    def note(self, text: str) -> None:
        """A sentence of its own."""
        ...

    def trying(self, entry: Entry, direction: Direction, tokens: int) -> None:
        """A length is tried."""
        ...

    def found(self, limit: Limit) -> None:
        """One search is over, and on disk."""
        ...


@dataclass(frozen=True)
class Wanted:
    """One contestant and direction, at the shortest length; entry.directions is that one."""

    entry: Entry

    @property
    def direction(self) -> Direction:
        """The direction that is asked about."""
        return self.entry.directions[0]

    @property
    def key(self) -> tuple[str, str, str]:
        """The names of case, contestant and direction, as a `Limit` has them."""
        return self.entry.case.name, self.entry.contestant.name, self.direction.value


def wanted(entries: Sequence[Entry], lengths: Lengths) -> tuple[Wanted, ...]:
    """What a suite asks about, whatever lengths it names, each once."""
    every: dict[tuple[str, str, str], Wanted] = {}
    for entry in entries:
        case = of_length(entry, lengths.least).case
        for direction in entry.directions:
            changed = {"case": case, "directions": (direction,)}
            one = Wanted(entry.model_copy(update=changed))
            every.setdefault(one.key, one)
    return tuple(every.values())


def of_length(entry: Entry, tokens: int) -> Entry:
    """The same with so many tokens on each rank."""
    total = tokens * entry.case.world_size
    case = entry.case.model_copy(update={"seqlen_total": total})
    return entry.model_copy(update={"case": case})


def longest(request: start.Request, lengths: Lengths, watcher: LongestWatcher) -> Path:
    """Searches in worker groups; the folder with what was found.

    Raises Interrupted where a person ends it.
    """
    asked, machine, rings, entries = start.asked_of_this_machine(request)
    if asked.as_ranks:
        raise InvalidArgument(
            f"suite {asked.suite.name!r} plays larger rings (as_ranks), in which nobody holds the "
            "whole of one; ask for the longest sequence of a suite that runs rings as they are."
        )
    if any(entry.case.cache is not None for entry in entries):
        raise InvalidArgument(
            f"suite {asked.suite.name!r} has cases over a cache, whose length is what there is "
            "room for; ask for the longest sequence of a suite without queries."
        )
    if any(entry.case.documents is not None for entry in entries):
        raise InvalidArgument(
            f"suite {asked.suite.name!r} has packed documents, which are others at each length; "
            "ask for the longest sequence of a suite without documents."
        )
    folder = folder_for(request.out, f"{asked.suite.name}_longest", machine.environment)
    with ExitStack() as stack:
        stack.enter_context(alone_in(folder))
        every = tuple(_left(folder, wanted(entries, lengths), lengths, request, watcher))
        watcher.heading([_heading(asked.suite, rings, lengths, machine.environment)], len(every))
        groups = Groups(machine, rings)
        stack.callback(groups.close)
        hunt = Hunt(asked.suite, lengths, machine.environment, groups.of, watcher)
        try:
            for one in every:
                limit = hunt.limit(one)
                limits.append(folder, limit)
                watcher.found(limit)
        except (KeyboardInterrupt, Terminated) as ended:
            raise Interrupted(folder, len(limits.read(folder)), "limits", ended) from None
    return folder


def _heading(
    suite: Suite, rings: Sequence[Setup], lengths: Lengths, environment: Environment
) -> str:
    where = environment.get("gpu") or environment.get("cpu")
    return (
        f"suite {suite.name}: {lengths.least:,} to {lengths.most:,} tokens of each rank on "
        f"{'; '.join(map(str, rings))}; {where}, torch {environment['torch']}"
    )


def _left(
    folder: Path,
    every: Sequence[Wanted],
    lengths: Lengths,
    request: start.Request,
    watcher: LongestWatcher,
) -> Iterator[Wanted]:
    """What the folder lacks, to resume; a limit that was searched up to less is lacking too."""
    limits.mend(folder, watcher.note)
    known = {x.key for x in limits.read(folder) if x.failed_at or x.most >= lengths.most}
    for one in every:
        if not (request.resume and one.key in known):
            yield one


@dataclass(frozen=True)
class Hunt:
    """What all searches of a run share."""

    suite: Suite
    lengths: Lengths
    environment: Environment
    group_of: Callable[[Entry], Group]
    watcher: LongestWatcher

    def limit(self, one: Wanted) -> Limit:
        """Searches for one contestant and direction."""
        begun = time.monotonic()
        reached = search(lambda tokens: self.attempt(one, tokens), self.lengths)
        return Limit(
            case=one.entry.case,
            contestant=one.entry.contestant,
            direction=one.direction,
            longest=reached.longest,
            failed_at=reached.failed_at,
            status=reached.ended.status,
            reason=reached.ended.reason,
            most=self.lengths.most,
            tried=reached.tried,
            environment=self.environment,
            seconds=round(time.monotonic() - begun, 3),
        )

    def attempt(self, one: Wanted, tokens: int) -> Attempt:
        """One call at that length, and whether what it gives adds up to what it must."""
        entry = of_length(one.entry, tokens)
        self.watcher.trying(entry, one.direction, tokens)
        session = Session(entry, self.group_of(entry), self.suite, own=True)
        try:
            session.prepare(entry.directions)
            session.sample(one.direction, Subject.RING, 1, 0, Series())
            broken = _broken(session.sums())
        except RefusedByWorker as refusal:
            return Attempt(Status.UNSUPPORTED, str(refusal))
        except WorkerFailed as failure:
            return Attempt(failure.status, failure.reason)
        with suppress(WorkerFailed):  # what it held is gone all the same
            session.release()
        return Attempt(Status.WRONG, broken) if broken else Attempt(Status.OK)


def _broken(invariants: Invariants) -> str:
    said = [
        f"invariant {invariant} does not hold ({INVARIANTS[invariant]}): {name} is out by "
        f"{'no number' if departure.max_abs is None else f'{departure.max_abs:.2g}'}, and "
        f"{departure.allowed_max_abs:.2g} is allowed"
        for invariant, by_result in invariants.items()
        for name, departure in by_result.items()
        if not departure.is_kept
    ]
    return "; ".join(said)
