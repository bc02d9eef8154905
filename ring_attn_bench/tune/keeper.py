"""Outcomes on disk at every moment, in the order of the trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.outcome import Outcome, Subject
from ring_attn_bench.records.tuning_csv import write


class Watcher(Protocol):
    """Who is told what happens, from several threads, one at a time."""

    def heading(self, lines: Sequence[str], total: int) -> None:
        """What is about to be done, and how many steps it takes."""
        ...

    def doing(self, what: str) -> None:
        """A step begins."""
        ...

    def done(self, what: str, outcomes: Sequence[Outcome]) -> None:
        """A step is over, and what it found is on disk."""
        ...


class Keeper:
    """Puts what is found on disk before anybody else hears of it."""

    def __init__(self, path: Path, order: Sequence[Subject], watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._lock = Lock()
        self._ended = False
        self._failure: FileError | None = None
        self._outcomes: dict[Subject, Outcome | None] = dict.fromkeys(order)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What has been found."""
        return tuple(filter(None, self._outcomes.values()))

    def lacks(self) -> int:
        """Of how many trials nothing is known."""
        return sum(outcome is None for outcome in self._outcomes.values())

    def doing(self, what: str) -> None:
        """Passes it on."""
        with self._lock:
            self._watcher.doing(what)

    def done(self, what: str, outcomes: Sequence[Outcome]) -> None:
        """Keeps them; each takes the place of what was known of its trial."""
        with self._lock:
            if self._ended:
                return
            self._outcomes |= {outcome.subject: outcome for outcome in outcomes}
            try:
                write(self.outcomes, self._path)
            except FileError as error:
                self._ended, self._failure = True, error
                return
            self._watcher.done(what, outcomes)

    def check(self) -> None:
        """Raises the FileError that a thread ran into, in the thread that can end the others."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """What comes now comes of processes that are being ended, and says nothing."""
        with self._lock:
            self._ended = True
