"""What a person sees while faults are planted: a line for each that the harness was asked about."""

from __future__ import annotations

from rich.text import Text

from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.workers.progress import ProgressLines


class SelftestProgress(ProgressLines):
    """A line for each fault."""

    def heard(self, one: Heard) -> None:
        """Prints whether the fault was named."""
        line = Text(f"{self.clock():>6s} {self.next_number()}  {one.fault.name:26s} ")
        word = "right" if one.fault.is_control else "named"
        line.append(word if one.is_named else f"NOT {word}", "green" if one.is_named else "red")
        self.result(line)
        self.moving("waiting for workers, some of which hang on purpose")
