"""Findings on disk at every moment, in the order of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from ring_attn_bench.errors import FileError, InvalidArgument
from ring_attn_bench.probe.tasks import Task
from ring_attn_bench.records.finding import Finding, read, write


class Watcher(Protocol):
    """Who is told what happens, from several threads, one at a time."""

    def heading(self, lines: Sequence[str], total: int) -> None:
        """What is about to be done."""
        ...

    def doing(self, task: Task) -> None:
        """A task begins."""
        ...

    def found(self, finding: Finding) -> None:
        """A finding is on disk."""
        ...


class Keeper:
    """Puts each finding on disk, in its place, before anybody else hears of it.

    What coverage.csv holds already stays, but for what is found anew: a matrix may be put together
    from several runs, on one device and with one torch.
    """

    def __init__(self, path: Path, order: Sequence[Task], watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._lock = Lock()
        self._ended = False
        self._failure: FileError | None = None
        self._findings: dict[tuple[str, str, str], Finding | None] = {
            (task.backend, task.feature, task.direction.value): None for task in order
        }

    def keep_old(self, device: str, torch: str) -> None:
        """Takes over what the file holds; raises InvalidArgument if it was found elsewhere."""
        if not self._path.exists():
            return
        for found in read(self._path):
            if (found.device, found.torch) != (device, torch):
                raise InvalidArgument(
                    f"{self._path} was found on {found.device}, torch {found.torch}, and this is "
                    f"{device}, torch {torch}; name another folder with --out."
                )
            self._findings[found.key] = found

    @property
    def count(self) -> int:
        """How many findings are on disk."""
        return sum(finding is not None for finding in self._findings.values())

    def lacks(self, task: Task) -> bool:
        """Whether nothing has been found about it."""
        return self._findings.get((task.backend, task.feature, task.direction.value)) is None

    def doing(self, task: Task) -> None:
        """Passes it on."""
        with self._lock:
            self._watcher.doing(task)

    def tell(self, finding: Finding) -> None:
        """Keeps it."""
        with self._lock:
            if self._ended:
                return
            self._findings[finding.key] = finding
            try:
                write(filter(None, self._findings.values()), self._path)
            except FileError as error:
                self._ended, self._failure = True, error
                return
            self._watcher.found(finding)

    def check(self) -> None:
        """Raises the FileError that a thread ran into, in the thread that can end the others."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """What comes now comes of processes that are being ended, and says nothing."""
        with self._lock:
            self._ended = True
