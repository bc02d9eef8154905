"""One of the threads that ask: it takes tasks, and its hand holds their backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ring_attn_bench.probe.messages import Ask, Load, Loaded
from ring_attn_bench.probe.tasks import PATIENCE, Task, Tasks
from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.pool import Hand
from ring_attn_bench.workers.reply import Reply, WorkerFailed


@dataclass(frozen=True, slots=True)
class Terms:
    """How to ask, and what every finding says of where it was found."""

    device: str
    seconds: float
    quick: bool
    device_name: str
    torch: str


@dataclass
class Asker:
    """Takes tasks until there are none. `tell` is called with each finding, `doing` before."""

    terms: Terms
    tasks: Tasks
    tell: Callable[[Task, list[Finding]], None]
    doing: Callable[[Task], None]
    hand: Hand[Loaded] = field(default_factory=lambda: Hand("ring_attn_bench.probe.serve", Loaded))
    _held: str | None = None
    _version: str = ""

    def run(self) -> None:
        """Takes tasks and asks, until all are dealt out."""
        while (task := self.tasks.take(self._held)) is not None:
            if task.backend != self._held:
                self._hold(task.backend, {})
            self.doing(task)
            self._carry_out(task)
        self.hand.drop()

    def _hold(self, backend: str, environment: dict[str, str]) -> None:
        self._held = backend
        load = Load(backend=backend, device=self.terms.device, environment=environment)
        self.hand.hold(load, environment)

    def _carry_out(self, task: Task) -> None:
        try:
            unavailable = self._load(task.backend)
        except WorkerFailed as failure:
            self._give_up(task, failure.status, f"when it was loaded, {failure.reason}")
            return
        if unavailable is not None:
            self._give_up(task, Status.UNSUPPORTED, f"unavailable: {unavailable}")
            return
        self._ask(task)

    def _ask(self, task: Task) -> None:
        command = Ask(feature=task.feature, direction=task.direction, quick=self.terms.quick)
        try:
            told = self.hand.ask(command, self.terms.seconds, Reply)
        except WorkerFailed as failure:
            told = Reply(status=failure.status, reason=failure.reason)
        self._finding(task, told.status, told.reason)
        for left in self.tasks.patience_with(task, timeout=told.status is Status.TIMEOUT):
            reason = f"not asked: it ran out of time with {PATIENCE} features in a row"
            self._finding(left, Status.TIMEOUT, reason)

    def _load(self, backend: str) -> str | None:
        """Sees to a process that holds the backend; why there can be none, or None."""
        loaded = self.hand.load()
        while loaded.needs is not None:
            self._hold(backend, loaded.needs)
            loaded = self.hand.load()
        self._version = loaded.version
        return loaded.unavailable

    def _give_up(self, task: Task, status: Status, reason: str) -> None:
        """The same for every feature of a backend that cannot be asked."""
        self.hand.drop()
        self._version = ""
        for left in (task, *self.tasks.drop(task.backend)):
            self._finding(left, status, reason)

    def _finding(self, task: Task, status: Status, reason: str) -> None:
        finding = Finding(
            backend=task.backend,
            feature=task.feature,
            direction=task.direction,
            verdict=status,
            reason=" ".join(reason.split()),
            version=self._version,
            device=self.terms.device_name,
            torch=self.terms.torch,
        )
        self.tell(task, [finding])
