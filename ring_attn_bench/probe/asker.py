"""One of the threads that ask: it holds a process, and replaces it when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ring_attn_bench.probe.messages import Ask, Load, Loaded, Told
from ring_attn_bench.probe.process import Process, ProcessFailed
from ring_attn_bench.probe.tasks import PATIENCE, Task, Tasks
from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status

LOAD_SECONDS = 300.0
"""For a process to come up and import a kernel's package, many of them at a time."""


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
    tell: Callable[[Finding], None]
    doing: Callable[[Task], None]
    _process: Process | None = None
    _held: str | None = None
    _version: str = ""

    def run(self) -> None:
        """Until all tasks are dealt out."""
        while (task := self.tasks.take(self._held)) is not None:
            if task.backend != self._held:
                self.close()
                self._held = task.backend
            self.doing(task)
            self._carry_out(task)
        self.close()

    def stop(self) -> None:
        """From another thread: ends the process, and with it what is being asked."""
        process = self._process
        if process is not None:
            process.close()

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _carry_out(self, task: Task) -> None:
        try:
            unavailable = self._load(task.backend)
        except ProcessFailed as failure:
            self._process = None
            self._give_up(task, failure.verdict, f"when it was loaded, {failure.reason}")
            return
        if unavailable is not None:
            self._give_up(task, Status.UNSUPPORTED, f"unavailable: {unavailable}")
            return
        self._ask(task)

    def _ask(self, task: Task) -> None:
        assert self._process is not None
        command = Ask(feature=task.feature, direction=task.direction, quick=self.terms.quick)
        try:
            told = Told.model_validate_json(self._process.ask(command, self.terms.seconds))
        except ProcessFailed as failure:
            self._process = None
            told = Told(verdict=failure.verdict, reason=failure.reason)
        self._finding(task, told.verdict, told.reason)
        if not told.usable:
            self.close()
        timeout = told.verdict is Status.TIMEOUT
        for left in self.tasks.patience_with(task, timeout=timeout):
            reason = f"not asked: it ran out of time with {PATIENCE} features in a row"
            self._finding(left, Status.TIMEOUT, reason)

    def _load(self, backend: str) -> str | None:
        """Sees to a process that holds the backend; why there can be none, or None."""
        environment: dict[str, str] = {}
        while self._process is None:
            self._process = Process(environment)
            command = Load(backend=backend, device=self.terms.device, environment=environment)
            loaded = Loaded.model_validate_json(self._process.ask(command, LOAD_SECONDS))
            if loaded.needs is None:
                self._version = loaded.version
                return loaded.unavailable
            self.close()
            environment = loaded.needs
        return None

    def _give_up(self, task: Task, verdict: Status, reason: str) -> None:
        """The same for every feature of a backend that cannot be asked."""
        self.close()
        self._version = ""
        for left in (task, *self.tasks.drop(task.backend)):
            self._finding(left, verdict, reason)

    def _finding(self, task: Task, verdict: Status, reason: str) -> None:
        self.tell(
            Finding(
                backend=task.backend,
                feature=task.feature,
                direction=task.direction,
                verdict=verdict,
                reason=" ".join(reason.split()),
                version=self._version,
                device=self.terms.device_name,
                torch=self.terms.torch,
            )
        )
