"""Rows on disk at every moment, in their order, whichever thread finds them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar

from ring_attn_bench.errors import FileError

Row = TypeVar("Row")
Task = TypeVar("Task")
ToldTask = TypeVar("ToldTask", contravariant=True)
ToldRow = TypeVar("ToldRow", contravariant=True)


class Watcher(Protocol[ToldTask, ToldRow]):
    """Who is told what happens, from several threads, one at a time."""

    def heading(self, lines: Sequence[str], total: int) -> None:
        """What is about to be done, and how many tasks it takes."""
        ...

    def doing(self, task: ToldTask) -> None:
        """A task begins."""
        ...

    def done(self, task: ToldTask, rows: Sequence[ToldRow]) -> None:
        """A task is over, and what it found is on disk."""
        ...


class Keeper(Generic[Task, Row]):
    """Puts rows on disk, each in its place, before anybody else hears of them.

    order: their keys. key: of a row. write: all rows to the path, or FileError.
    """

    def __init__(
        self,
        path: Path,
        order: Iterable[Hashable],
        key: Callable[[Row], Hashable],
        write: Callable[[Iterable[Row], Path], None],
        watcher: Watcher[Task, Row],
    ) -> None:
        self._path, self._key, self._write, self._watcher = path, key, write, watcher
        self._lock = Lock()
        self._ended = False
        self._failure: FileError | None = None
        self._rows: dict[Hashable, Row | None] = dict.fromkeys(order)

    @property
    def rows(self) -> tuple[Row, ...]:
        """What has been found."""
        return tuple(row for row in self._rows.values() if row is not None)

    def lacks(self, key: Hashable) -> bool:
        """Whether nothing has been found about it."""
        return self._rows.get(key) is None

    def keep_old(self, rows: Iterable[Row]) -> None:
        """Takes over what the file holds already; what is found anew takes its place."""
        self._rows |= {self._key(row): row for row in rows}

    def doing(self, task: Task) -> None:
        """Tells the watcher that a task begins."""
        with self._lock:
            self._watcher.doing(task)

    def done(self, task: Task, rows: Sequence[Row]) -> None:
        """Keeps them; each takes the place of what was known of its key."""
        with self._lock:
            if self._ended:
                return
            self.keep_old(rows)
            try:
                self._write(self.rows, self._path)
            except FileError as error:
                self._ended, self._failure = True, error
                return
            self._watcher.done(task, rows)

    def check(self) -> None:
        """Raises the FileError that a thread ran into, in the thread that can end the others."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """What comes now comes of processes that are being ended, and says nothing."""
        with self._lock:
            self._ended = True
