"""What a person sees while a suite runs: what is going on, and a line for each finished record."""

from __future__ import annotations

import time
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from ring_attn_bench.bench.record import Record, Status

_STYLES = {
    Status.OK: "green",
    Status.UNSUPPORTED: "dim",
    Status.OOM: "yellow",
    Status.WRONG: "bold red",
    Status.ERROR: "bold red",
    Status.TIMEOUT: "bold red",
}


class Progress:
    """Prints to a terminal, or to a log without colours and moving parts."""

    def __init__(self, console: Console, total: int) -> None:
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

    def note(self, text: str) -> None:
        """A sentence of its own."""
        self._console.print(Text(text))

    def case(self, name: str, contestants: int) -> None:
        """A case begins."""
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        many = "s" if contestants > 1 else ""
        self.note(f"{minutes}:{seconds:02d}  {name}  ({contestants} contestant{many})")

    def doing(self, text: str) -> None:
        """What is going on until the next line: a moving line, on a terminal only."""
        self._status.update(Text(f"{self._done} of {self._total} done; {text}"))

    def record(self, record: Record) -> None:
        """One more finished record."""
        self._done += 1
        count = f"{self._done:{len(str(self._total))}d}/{self._total}"
        line = Text(f"  {count}  {record.contestant.name:26s} {record.direction.value:17s}")
        line.append(record.status.value, style=_STYLES[record.status])
        line.append(f"  {_detail(record)}")
        # a log has no width: nothing is cut from it
        self._console.print(line, soft_wrap=not self._console.is_terminal)


def _detail(record: Record) -> str:
    if record.status is not Status.OK:
        return record.reason
    if record.speed is None:
        return "right (interpreted: no speed)" if record.interpreted else "right"
    latency = median(max(call) for call in record.speed.samples.ring)
    rate = record.speed.useful_flops / record.speed.devices / latency / 1e9
    shown = f"{rate:.4g} TFLOP/s" if rate >= 1 else f"{rate * 1e3:.4g} GFLOP/s"
    return f"{latency:.3f} ms, {shown}"
