"""Plants every fault, lets `bench` meet them in processes of its own, and hears what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ring_attn_bench.errors import InvalidArgument, MachineLacks
from ring_attn_bench.machine.environment import probe
from ring_attn_bench.records.record import Record, read
from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.selftest.planted import FAULTS, Fault
from ring_attn_bench.selftest.suites import PlantedSuite, plug_in, suites
from ring_attn_bench.workers.process import importable

AT_A_TIME = 3
"""Runs of `bench`, for two cores: one of them waits in vain most of its time, and half of a worker
group's start is one process alone."""
CPU_RANKS = 3
POLL_SECONDS = 0.3
Device = str
Tell = Callable[[Heard], None]


@dataclass(frozen=True)
class Planted:
    """What a machine can be asked about, and what it cannot, with the reason."""

    suites: tuple[PlantedSuite, ...]
    left_out: Mapping[str, str]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that are planted."""
        return tuple(fault for suite in self.suites for fault in suite.faults)


def planted(device: Device, patterns: Sequence[str] = ()) -> Planted:
    """By the machine: on CPUs all that match a pattern, or all.

    Raises InvalidArgument where none does, MachineLacks where there is no such device.
    """
    chosen = _matching(patterns)
    if device == "cpu":
        return Planted(suites(chosen, CPU_RANKS), {})
    gpus = int(probe()["gpu_count"] or 0)
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
    with tempfile.TemporaryDirectory(prefix="rab-selftest-") as name:
        plug_in(asked.faults, Path(name))
        waiting = [_Bench(suite, Path(name), device) for suite in asked.suites]
        running: list[_Bench] = []
        with _all_ended(running):
            while waiting or running:
                while waiting and len(running) < AT_A_TIME:
                    running.append(waiting.pop(0))
                    running[-1].start()
                time.sleep(POLL_SECONDS)
                ended = [bench for bench in running if bench.has_ended]  # before it is read
                for bench in running:
                    for found in bench.heard(whole=bench in ended):
                        tell(found)
                        every.append(found)
                running[:] = [bench for bench in running if bench not in ended]
    order = [fault.name for fault in FAULTS]
    return tuple(sorted(every, key=lambda found: order.index(found.fault.name)))


class _Bench:
    """One process that runs one suite."""

    def __init__(self, suite: PlantedSuite, plugins: Path, device: Device) -> None:
        self._suite, self._plugins, self._device = suite, plugins, device
        self._folder = plugins / suite.name
        self._left = list(suite.faults)

    def start(self) -> None:
        """Starts it, with the plug-ins on its path."""
        self._folder.mkdir()
        file = self._folder / "suite.toml"
        file.write_text(self._suite.text)
        path = os.pathsep.join([str(self._plugins), importable()["PYTHONPATH"]])
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self._device == "cpu" else {}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ring_attn_bench.selftest.serve", file, self._folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": path} | hidden,
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def heard(self, *, whole: bool) -> Iterator[Heard]:
        """Of the faults whose records are there; of all that are left, if there are no more."""
        records = self._records()
        for fault in list(self._left):
            own = [x for x in records if fault.plugin in (x.contestant.backend, _transport(x))]
            if whole or len(own) == fault.records:
                self._left.remove(fault)
                yield Heard.of(fault, own, self._last_words() if whole else "")

    def end(self) -> None:
        """Ends it, and with it its workers, who look after their parent."""
        if not self.has_ended:
            self._process.kill()
            self._process.wait()

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _records(self) -> list[Record]:
        path = self._folder / "records.jsonl"
        return list(read(path)) if path.exists() else []

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line]
        return lines[-1].strip() if lines else "nothing"


def _transport(record: Record) -> str:
    own = record.contestant.options
    return "" if own is None else own.transport


@contextmanager
def _all_ended(running: Sequence[_Bench]) -> Iterator[None]:
    try:
        yield
    finally:
        for bench in running:
            bench.end()
