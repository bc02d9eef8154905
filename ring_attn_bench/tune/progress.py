"""What a person sees while tuning runs: what is being tried, and a line for each step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from ring_attn_bench.conformance.verdict import Verdict
from ring_attn_bench.tune.choose import choices
from ring_attn_bench.tune.outcome import Outcome

_SHOWN = 3


class TuneProgress:
    """Prints to a terminal, or to a log without colours and moving parts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = 0
        self._done = 0
        self._started = time.monotonic()
        self._tried: dict[str, None] = {}
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

    def heading(self, lines: Sequence[str], total: int) -> None:
        """What is about to be done."""
        self._total = total
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)

    def doing(self, what: str) -> None:
        """A step begins: a moving line, on a terminal only."""
        self._tried[what] = None
        self._update()

    def done(self, what: str, outcomes: Sequence[Outcome]) -> None:
        """One more line."""
        self._done += 1
        self._tried.pop(what, None)
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        count = f"{self._done:{len(str(self._total))}d}/{self._total}"
        line = Text(f"{minutes:3d}:{seconds:02d} {count}  {what:54s}  ")
        line.append_text(_found(outcomes))
        if self._console.is_terminal:
            self._console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(line, soft_wrap=True)  # a log has no width: nothing is cut from it
        self._update()

    def _update(self) -> None:
        tried = list(self._tried)
        more = f" and {len(tried) - _SHOWN} more" if len(tried) > _SHOWN else ""
        self._status.update(
            Text(f"{self._done} of {self._total} done; {', '.join(tried[:_SHOWN])}{more}")
        )


def _found(outcomes: Sequence[Outcome]) -> Text:
    """Of one trial its verdict; of a row that was timed, its fastest."""
    fastest = next((x.fastest for x in choices(outcomes)), None)
    if fastest is not None:
        full, causal = (median(times) for times in (fastest.full, fastest.causal))
        config = fastest.subject.trial.config
        return Text(f"{config}: full {full:.0f} us, causal {causal:.0f} us", style="green")
    if not outcomes:
        return Text("nothing is right", style="bold red")
    worst = max(outcomes, key=lambda x: list(Verdict).index(x.verdict))
    text = Text(worst.verdict.value, style="green" if worst.verdict is Verdict.OK else "bold red")
    text.append(f"  {worst.reason}" if worst.reason else "")
    return text
