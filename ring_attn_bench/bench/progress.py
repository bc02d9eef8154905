"""What a person sees while a suite runs: what is going on, and a line for each finished record."""

from __future__ import annotations

from statistics import median

from rich.console import Console
from rich.text import Text

from ring_attn_bench.records.record import Record
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.progress import STYLES, ProgressLines


class Progress(ProgressLines):
    """A line for each case that begins, and for each record.

    verbose: whether the last words of workers that died follow.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        super().__init__(console)
        self._verbose = verbose

    def case(self, name: str, contestants: int) -> None:
        """Prints the case's name and how many contestants it has."""
        many = "s" if contestants > 1 else ""
        left = self.time_left()
        self.note(f"{self.clock()}  {name}  ({contestants} contestant{many}{left})")

    def doing(self, text: str) -> None:
        """What is going on until the next line."""
        self.moving(text)

    def record(self, record: Record) -> None:
        """One more finished record."""
        number = self.next_number()
        line = Text(f"  {number}  {record.contestant.name:26s} {record.direction.value:17s}")
        line.append(record.status.value, style=STYLES[record.status])
        line.append(f"  {_detail(record)}")
        self.result(line, cut=False)
        if self._verbose:
            for said in record.stderr:
                self.note(f"      {said}")


def _detail(record: Record) -> str:
    if record.status is not Status.OK:
        return record.reason
    if record.speed is None:
        return "right (interpreted: no speed)" if record.interpreted else "right"
    latency = median(max(call) for call in record.speed.samples.ring)
    rate = record.speed.useful_flops / record.speed.devices / latency / 1e9
    shown = f"{rate:.4g} TFLOP/s" if rate >= 1 else f"{rate * 1e3:.4g} GFLOP/s"
    slow = record.slowest_rank
    apart = f"; {slow}" if slow is not None and slow.is_apart else ""
    return f"{latency:.3f} ms, {shown}{apart}"
