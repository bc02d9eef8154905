"""What a person sees while the probe runs: what is being asked, and a line for each finding."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ring_attn_bench.probe.tasks import Task
from ring_attn_bench.records.finding import Finding
from ring_attn_bench.workers.progress import STYLES, ProgressLines, some_of

_SHOWN = 4


class ProbeProgress(ProgressLines):
    """A line for each finding."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._asked: dict[Task, None] = {}

    def doing(self, task: Task) -> None:
        """Shows what is being asked."""
        self._asked[task] = None
        self._update()

    def done(self, task: Task, findings: Sequence[Finding]) -> None:
        """Prints what a task found."""
        self._asked.pop(task, None)
        (finding,) = findings
        what = f"{finding.backend:14s} {finding.feature:24s} {finding.direction.value:8s}"
        number = self.next_number()
        line = Text(f"{self.clock():>6s} {number}  {what}  ")
        line.append(finding.verdict.value, style=STYLES[finding.verdict])
        line.append(f"  {finding.reason}" if finding.reason else "")
        self.result(line)
        self._update()

    def _update(self) -> None:
        self.moving(some_of([f"{task.backend} {task.feature}" for task in self._asked], _SHOWN))
