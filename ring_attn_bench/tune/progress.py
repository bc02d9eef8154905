"""What a person sees while tuning runs: what is being tried, and a line for each task."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.text import Text

from ring_attn_bench.records.choices import choices
from ring_attn_bench.records.outcome import Outcome
from ring_attn_bench.workers.progress import STYLES, ProgressLines, some_of

_SHOWN = 3


class TuneProgress(ProgressLines):
    """A line for each trial that was verified, and for each row that was timed."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._tried: dict[str, None] = {}

    def doing(self, what: str) -> None:
        """Shows what is being done."""
        self._tried[what] = None
        self._update()

    def done(self, what: str, outcomes: Sequence[Outcome]) -> None:
        """Prints what a task found."""
        self._tried.pop(what, None)
        number = self.next_number()
        line = Text(f"{self.clock():>6s} {number}  {what:54s}  ")
        line.append_text(_found(outcomes))
        self.result(line)
        self._update()

    def _update(self) -> None:
        self.moving(some_of(list(self._tried), _SHOWN))


def _found(outcomes: Sequence[Outcome]) -> Text:
    """Of one trial its status; of a row that was timed, its fastest."""
    fastest = next((x.fastest for x in choices(outcomes)), None)
    if fastest is not None:
        full, causal = (median(times) for times in (fastest.full, fastest.causal))
        config = fastest.subject.trial.config
        return Text(f"{config}: full {full:.0f} us, causal {causal:.0f} us", style="green")
    if not outcomes:
        return Text("nothing is right", style="bold red")
    worst = max(outcomes, key=lambda x: x.verdict.badness)
    text = Text(worst.verdict.value, style=STYLES[worst.verdict])
    text.append(f"  {worst.reason}" if worst.reason else "")
    return text
