"""What a person sees while the probe runs: what is being asked, and a line for each finding."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from ring_attn_bench.conformance.verdict import Verdict
from ring_attn_bench.probe.finding import Finding
from ring_attn_bench.probe.tasks import Task

_STYLES = {Verdict.OK: "green", Verdict.UNSUPPORTED: "dim"}
_SHOWN = 4


class ProbeProgress:
    """Prints to a terminal, or to a log without colours and moving parts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._done = 0
        self._started = time.monotonic()
        self._asked: dict[Task, None] = {}
        self._status = console.status("starting")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status.stop()

    def heading(self, text: str, total: int) -> None:
        """What is about to be done."""
        self._total = total
        self._console.print(Text(text), soft_wrap=True)

    def doing(self, task: Task) -> None:
        """A task begins: a moving line, on a terminal only."""
        self._asked[task] = None
        self._update()

    def found(self, finding: Finding) -> None:
        """One more line."""
        self._done += 1
        self._asked.pop(Task(finding.backend, finding.feature, finding.direction), None)
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        count = f"{self._done:{len(str(self._total))}d}/{self._total}"
        what = f"{finding.backend:14s} {finding.feature:24s} {finding.direction.value:8s}"
        line = Text(f"{minutes:3d}:{seconds:02d} {count}  {what}  ")
        line.append(finding.verdict.value, style=_STYLES.get(finding.verdict, "bold red"))
        line.append(f"  {finding.reason}" if finding.reason else "")
        if self._console.is_terminal:
            self._console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(line, soft_wrap=True)  # a log has no width: nothing is cut from it
        self._update()

    def _update(self) -> None:
        asked = [f"{task.backend} {task.feature}" for task in self._asked]
        more = f" and {len(asked) - _SHOWN} more" if len(asked) > _SHOWN else ""
        self._status.update(
            Text(f"{self._done} of {self._total} done; {', '.join(asked[:_SHOWN])}{more}")
        )
