"""A whole benchmark run: groups, schedule, records on disk."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from ring_attn_bench.bench.messages import QUIT
from ring_attn_bench.bench.setup import Setup
from ring_attn_bench.bench.suite import Entry, Suite
from ring_attn_bench.bench.suite_run import RunWatcher, SuiteRun
from ring_attn_bench.bench.tracing import Traces
from ring_attn_bench.machine.plug_ins import Inventory
from ring_attn_bench.records.files import make_folder
from ring_attn_bench.records.record import Record, append
from ring_attn_bench.records.values import Environment
from ring_attn_bench.workers.group import Group, TorchrunGroup


@dataclass(frozen=True)
class EntrySelection:
    """The part of a suite to run: names of cases and contestants, or shell patterns for them.

    either: of a case or a contestant.
    """

    cases: str = "*"
    contestants: str = "*"
    either: str = "*"

    def of(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The entries that match all three patterns."""
        return tuple(
            entry
            for entry in entries
            if _matches(entry.case.name, self.cases)
            and _matches(entry.contestant.name, self.contestants)
            and any(_matches(x.name, self.either) for x in (entry.case, entry.contestant))
        )

    def __str__(self) -> str:
        either = "" if self.either == "*" else f", or either of them {self.either!r}"
        return f"case {self.cases!r} and contestant {self.contestants!r}{either}"


def _matches(name: str, pattern: str) -> bool:
    # a peer's name has brackets, which are a pattern of their own: the whole name is itself first
    return name == pattern or fnmatch(name, pattern)


@dataclass(frozen=True)
class Run:
    """One run of a suite: what every record of it says about itself."""

    name: str
    suite: Suite
    suite_argument: str
    environment: Environment
    folder: Path
    added: tuple[str, ...] = ()
    """Backends that the suite's file does not name."""
    overruled: tuple[str, ...] = ()
    """Keys of the suite that were overruled, as `--set` has them."""
    trace: bool = False
    """Whether one more call of each row that is timed is looked at."""

    @property
    def records(self) -> Path:
        """Where the records go."""
        return self.folder / "records.jsonl"

    def record(self, *, entry: Entry, **fields: Any) -> Record:  # noqa: ANN401 - Record checks
        """A record of this run."""
        return Record(
            run=self.name,
            suite=self.suite.name,
            case=entry.case,
            contestant=entry.contestant,
            environment=self.environment,
            command=self._command(entry),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **fields,
        )

    def _command(self, entry: Entry) -> str:
        words = ["ring-attn-bench", "bench", "--suite", self.suite_argument]
        words += [word for one in self.overruled for word in ("--set", one)]
        who, world_size = entry.contestant, str(entry.case.world_size)
        words += ["--ranks", str(who.played_on or world_size)]
        if who.playing:
            words += ["--as-ranks", world_size, "--playing", "+".join(map(str, who.playing))]
        words += ["--case", entry.case.name, "--contestant", entry.contestant.name]
        if entry.contestant.backend in self.added:
            words += ["--backend", entry.contestant.backend]
        return shlex.join(words)


class Groups:
    """The worker groups of a run: one for each backend and ring, started when first needed."""

    def __init__(self, machine: Inventory, setups: Sequence[Setup]) -> None:
        self._machine = machine
        self._setups = {setup.world_size: setup for setup in setups}
        self._groups: dict[tuple[str, int], TorchrunGroup] = {}

    def of(self, entry: Entry) -> Group:
        """The group that runs an entry."""
        backend, world_size = entry.contestant.backend, entry.case.world_size
        key = backend, world_size
        if key not in self._groups:
            processes = self._setups[world_size].processes
            variables = self._machine.variables(backend)
            self._groups[key] = TorchrunGroup(
                "ring_attn_bench.bench.serve", [str(world_size)], processes, variables, QUIT
            )
        return self._groups[key]

    def close(self) -> None:
        """Ends all of them."""
        with ExitStack() as all_of_them:  # each, also where a signal ends the closing of another
            for group in self._groups.values():
                all_of_them.callback(group.close)


class Noting(RunWatcher, Protocol):
    """A watcher that prints what else there is to say."""

    def note(self, text: str) -> None:
        """A line of its own."""
        ...


def execute(
    run: Run,
    entries: Sequence[Entry],
    machine: Inventory,
    setups: Sequence[Setup],
    watcher: Noting,
) -> None:
    """Runs the entries in worker groups, each record on disk as soon as it is complete."""
    with ExitStack() as stack:
        groups = Groups(machine, setups)
        stack.callback(groups.close)
        execute_on(run, entries, groups.of, watcher)


def execute_on(
    run: Run,
    entries: Sequence[Entry],
    group_of: Callable[[Entry], Group],
    watcher: Noting,
) -> None:
    """Runs the entries on groups that exist already."""
    make_folder(run.folder)
    keeper = _Recorder(run.records, watcher)
    traces = Traces(run.folder, watcher.note) if run.trace else None
    SuiteRun(run.suite, entries, group_of, run.record, keeper, traces).run()


@dataclass(frozen=True)
class _Recorder:
    """Puts each record on disk before anybody else hears of it."""

    path: Path
    watcher: RunWatcher

    def case(self, name: str, contestants: int) -> None:
        self.watcher.case(name, contestants)

    def doing(self, text: str) -> None:
        self.watcher.doing(text)

    def record(self, record: Record) -> None:
        append(self.path, record)
        self.watcher.record(record)
