"""What a person sees while something runs: a line for each result, and one that moves.

On a terminal in colours, a long line cut at its edge if nothing is lost by it; a log gets neither.
Names and reasons are words of others: they move no cursor and paint nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from ring_attn_bench.records.status import Status
from ring_attn_bench.text.controls import spelled

STYLES = {
    Status.OK: "green",
    Status.UNSUPPORTED: "dim",
    Status.OOM: "yellow",
    Status.ERROR: "bold red",
    Status.TIMEOUT: "bold red",
    Status.WRONG: "bold red",
}


class ProgressLines:
    """A context in which `total` results are printed as they come."""

    def __init__(self, console: Console, total: int = 0) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._started = time.monotonic()
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
        """What is about to be done, and how many results there will be."""
        self._total = total
        for line in lines:
            self.note(line)

    def note(self, text: str) -> None:
        """A sentence of its own."""
        self._console.print(Text(spelled(text)), soft_wrap=True)

    def moving(self, text: str) -> None:
        """What is going on, on a terminal only."""
        done = f"{self._done} of {self._total} done{self.time_left()}"
        self._status.update(Text(f"{done}; {spelled(text)}"))

    def result(self, line: Text, *, cut: bool = True) -> None:
        """Prints the line of one more result."""
        line = _in_one_line(line)
        if self._console.is_terminal and cut:
            self._console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self._console.print(line, soft_wrap=not self._console.is_terminal)

    def clock(self) -> str:
        """Minutes and seconds since the beginning."""
        return _minutes(time.monotonic() - self._started)

    def time_left(self) -> str:
        """About how long it takes to the end, once something is done: at the pace so far."""
        left = self._total - self._done
        if not self._done or left <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * left / self._done
        return f", about {_minutes(seconds)} left"

    def next_number(self) -> str:
        """Of the result that is about to be printed: 7/112."""
        self._done += 1
        return f"{self._done:{len(str(self._total))}d}/{self._total}"


def _in_one_line(line: Text) -> Text:
    """The same in its colours, which are ours; a reason may have lines and colours of its own."""
    parts = line.divide(sorted({at for span in line.spans for at in (span.start, span.end)}))
    styled = ((part.plain, part.spans[0].style if part.spans else "") for part in parts)
    return Text.assemble(*((spelled(text).replace("\n", " "), style) for text, style in styled))


def _minutes(seconds: float) -> str:
    """1:05"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def some_of(names: Sequence[str], shown: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
