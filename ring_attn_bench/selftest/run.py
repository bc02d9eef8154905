"""Plants every fault, lets `bench` meet them in processes of its own, and hears what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ring_attn_bench.errors import InvalidArgument, MachineLacks
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.records.record import Record, read
from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.selftest.planted import FAULTS, Fault
from ring_attn_bench.selftest.suites import PlantedSuite, plug_in, suites
from ring_attn_bench.workers.process import Started, importable

AT_A_TIME = 3
"""Runs of `bench`, for two cores: one of them waits in vain most of its time, and half of a worker
group's start is one process alone."""
CPU_RANKS = 3
POLL_SECONDS = 0.3
SILENT_SECONDS = 600.0
"""Without another record: a run takes a minute or two, and one command in it two at most."""
SERVE = "ring_attn_bench.selftest.serve"
Device = str
Tell = Callable[[Heard], None]


@dataclass(frozen=True)
class Planted:
    """What a machine can be asked about, and what it cannot, with the reason."""

    suites: tuple[PlantedSuite, ...]
    left_out: Mapping[str, str]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults that are planted."""
        return tuple(fault for suite in self.suites for fault in suite.faults)


def planted(device: Device, patterns: Sequence[str] = ()) -> Planted:
    """By the machine: on CPUs all that match a pattern, or all.

    Raises InvalidArgument where none does, MachineLacks where there is no such device.
    """
    chosen = _matching(patterns)
    if device == "cpu":
        return Planted(suites(chosen, CPU_RANKS), {})
    gpus = int(plug_ins.ask().environment["gpu_count"] or 0)
    if not gpus:
        raise MachineLacks("there is no CUDA device here; --device cpu plants the same faults.")
    lost = {
        fault.name: f"it shows in a ring of {fault.ranks} GPUs, and this machine has {gpus}"
        for fault in chosen
        if fault.kind == "transport" and fault.ranks > gpus
    }
    return Planted(suites([x for x in chosen if x.name not in lost], gpus), lost)


def _matching(patterns: Sequence[str]) -> tuple[Fault, ...]:
    if not patterns:
        return FAULTS
    chosen = tuple(x for x in FAULTS if any(fnmatch(x.name, pattern) for pattern in patterns))
    if not chosen:
        raise InvalidArgument(
            f"no fault matches {' or '.join(map(repr, patterns))}; there are "
            f"{', '.join(x.name for x in FAULTS)}."
        )
    return chosen


def selftest(asked: Planted, device: Device, tell: Tell) -> tuple[Heard, ...]:
    """What the harness says of each fault; tell hears of one as soon as it is known."""
    every: list[Heard] = []
    waiting = list(asked.suites)
    running: list[_Bench] = []
    with _all_closed(running):
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                running.append(_Bench(waiting.pop(0), device))
            time.sleep(POLL_SECONDS)
            for bench in list(running):
                end = bench.how_it_ended()  # before its records are read
                for one in bench.heard(end):
                    tell(one)
                    every.append(one)
                if end:
                    bench.close()
                    running.remove(bench)
    order = [fault.name for fault in FAULTS]
    return tuple(sorted(every, key=lambda one: order.index(one.fault.name)))


class _Bench(Started):
    """One process that runs one suite, with its faults as plug-ins in its folder.

    What ends it ends its workers too, who look after their parent.
    """

    who = "run of bench"

    def __init__(self, suite: PlantedSuite, device: Device) -> None:
        self._left = list(suite.faults)
        self._counted = 0
        self._deadline = time.monotonic() + SILENT_SECONDS
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}

        def command(folder: Path) -> list[str]:
            plug_in(suite.faults, folder)
            (folder / "suite.toml").write_text(suite.text)
            return [sys.executable, "-m", SERVE, str(folder), str(os.getpid())]

        def environment(folder: Path) -> dict[str, str]:
            path = os.pathsep.join([str(folder), importable()["PYTHONPATH"]])
            return {"PYTHONPATH": path, **hidden}

        super().__init__(command, environment, subprocess.DEVNULL)

    def how_it_ended(self) -> str:
        """In words; nothing while it runs, and says something from time to time."""
        if self.runner.poll() is not None:
            return self.end()
        if time.monotonic() > self._deadline:
            return self.overdue(SILENT_SECONDS)
        return ""

    def heard(self, end: str) -> Iterator[Heard]:
        """Of the faults whose records are there; of all that are left, if it has ended."""
        records = self._records()
        if len(records) > self._counted:
            self._counted, self._deadline = len(records), time.monotonic() + SILENT_SECONDS
        for fault in list(self._left):
            own = [x for x in records if fault.plugin in (x.contestant.backend, _transport(x))]
            if end or len(own) == fault.records:
                self._left.remove(fault)
                yield Heard.of(fault, own, end)

    def _records(self) -> list[Record]:
        path = self.folder / "records.jsonl"
        return list(read(path)) if path.exists() else []


def _transport(record: Record) -> str:
    own = record.contestant.options
    return "" if own is None else own.transport


@contextmanager
def _all_closed(running: Sequence[_Bench]) -> Iterator[None]:
    try:
        yield
    finally:
        with ExitStack() as each:  # a signal that comes while one is closed leaves no other
            for bench in running:
                each.callback(bench.close)
