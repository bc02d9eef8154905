"""What a person sees while faults are planted: a line for each that the harness was asked about."""

from __future__ import annotations

from rich.text import Text

from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.workers.progress import ProgressLines


class SelftestProgress(ProgressLines):
    """A line for each fault."""

    def heard(self, found: Heard) -> None:
        """Prints whether it was named."""
        line = Text(f"{self.clock():>6s} {self.next_number()}  {found.fault.name:26s} ")
        word = "right" if found.fault.is_control else "named"
        line.append(word if found.is_named else f"NOT {word}", "green" if found.is_named else "red")
        self.result(line)
        self.moving("waiting for workers, some of which hang on purpose")
