"""What a person sees while a suite runs: one line for each finished record, and how far it is."""

from __future__ import annotations

import time
from statistics import median

from rich.console import Console
from rich.markup import escape

from ring_attn_bench.bench.record import Record, Status

_COLOURS = {
    Status.OK: "green",
    Status.UNSUPPORTED: "bright_black",
    Status.OOM: "yellow",
    Status.WRONG: "red",
    Status.ERROR: "red",
    Status.TIMEOUT: "red",
}


class Progress:
    """Prints to a terminal or a log; says little, often."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._case = ""
        self._started = time.monotonic()

    def note(self, text: str) -> None:
        """A sentence of its own."""
        self._console.print(escape(text))

    def record(self, record: Record) -> None:
        """One more finished record."""
        if record.case.name != self._case:
            self._case = record.case.name
            minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
            self._console.print(f"[bold]{escape(self._case)}[/bold]  ({minutes}:{seconds:02d})")
        self._done += 1
        width = len(str(self._total))
        colour = _COLOURS[record.status]
        self._console.print(
            f"  [{self._done:{width}d}/{self._total}] {record.contestant.name:32s} "
            f"{record.direction.value:17s} ".replace("[", r"\[", 1)
            + f"[{colour}]{record.status.value}[/{colour}]  {escape(_detail(record))}",
            overflow="ellipsis",
            no_wrap=True,
        )


def _detail(record: Record) -> str:
    if record.status is not Status.OK:
        return record.reason
    if record.speed is None:
        return "right (interpreted)" if record.interpreted else "right"
    latency = median(max(call) for call in record.speed.samples.ring)
    rate = record.speed.useful_flops / record.speed.devices / latency / 1e9
    return f"{latency:.3f} ms, {rate:.4g} TFLOP/s per device"
