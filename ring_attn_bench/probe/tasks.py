"""What is still to be asked, shared by the threads that ask."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from ring_attn_bench.records.direction import Direction

PATIENCE = 4
"""A backend that runs out of time so often in a row in one direction is not asked there again."""


@dataclass(frozen=True, slots=True)
class Task:
    """One cell of the matrix."""

    backend: str
    feature: str
    direction: Direction

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of the finding that answers it."""
        return self.backend, self.feature, self.direction.value


class Tasks:
    """Dealt out so that a process keeps its backend, and the longest queue has most processes."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._lock = Lock()
        self._queues: dict[str, deque[Task]] = {}
        self._askers: Counter[str] = Counter()
        self._timeouts: Counter[tuple[str, Direction]] = Counter()
        for task in tasks:
            self._queues.setdefault(task.backend, deque()).append(task)

    def take(self, held: str | None) -> Task | None:
        """The next task for one who holds that backend; None when all are dealt out."""
        with self._lock:
            if held is not None and self._queues[held]:
                return self._queues[held].popleft()
            if held is not None:
                self._askers[held] -= 1
            waiting = [name for name, queue in self._queues.items() if queue]
            if not waiting:
                return None
            chosen = max(waiting, key=lambda x: len(self._queues[x]) / (1 + self._askers[x]))
            self._askers[chosen] += 1
            return self._queues[chosen].popleft()

    def drop(self, backend: str | None = None, direction: Direction | None = None) -> list[Task]:
        """Takes back what nobody has begun: all of it, or a backend's, or that of one direction."""
        with self._lock:
            return self._drop(backend, direction)

    def patience_with(self, task: Task, *, timeout: bool) -> list[Task]:
        """What is not asked any more, because the like of it has run out of time too often."""
        with self._lock:
            key = task.backend, task.direction
            self._timeouts[key] = self._timeouts[key] + 1 if timeout else 0
            return self._drop(*key) if self._timeouts[key] >= PATIENCE else []

    def _drop(self, backend: str | None, direction: Direction | None) -> list[Task]:
        dropped: list[Task] = []
        for name, queue in self._queues.items():
            if backend in {None, name}:
                dropped += [task for task in queue if direction in {None, task.direction}]
                kept = [task for task in queue if direction not in {None, task.direction}]
                queue.clear()
                queue.extend(kept)
        return dropped
