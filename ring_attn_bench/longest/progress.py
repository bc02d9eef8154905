"""What a person sees meanwhile: a line for each search that is over."""

from __future__ import annotations

from rich.text import Text

from ring_attn_bench.bench.suite import Entry
from ring_attn_bench.longest.terminal import shape_of
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.limit import Limit
from ring_attn_bench.workers.progress import STYLES, ProgressLines


class LongestProgress(ProgressLines):
    """A line for each contestant and direction, and one for each case before them."""

    _shape: str | None = None

    def trying(self, entry: Entry, direction: Direction, tokens: int) -> None:
        """What is going on until the next line."""
        shape = shape_of(entry.case)
        if shape != self._shape:
            self._shape = shape
            self.note(f"{self.clock()}  {shape}{self.time_left()}")
        self.moving(f"{entry.contestant.name} {direction.value}, {tokens:,} tokens a rank")

    def found(self, limit: Limit) -> None:
        """Prints how long it may be, and why no longer."""
        line = Text(f"  {self.next_number()}  {limit.contestant.name:26s} ")
        line.append(f"{limit.direction.value:17s}")
        line.append("none" if limit.longest is None else f"{limit.longest:,}")
        if limit.failed_at is not None:
            line.append(f", then at {limit.failed_at:,} ")
            line.append(limit.status.value, style=STYLES[limit.status])
            line.append(f"  {' '.join(limit.reason.split())}")
        self.result(line)
