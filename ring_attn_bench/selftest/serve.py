"""One run of `bench` over planted faults: `-m ring_attn_bench.selftest.serve FOLDER PID`.

FOLDER has the suite and the plug-ins, PID is the parent's. A process of its own, because plug-ins
are looked up where Python's path begins, and its workers inherit that path. No report is written:
the parent reads the records.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ring_attn_bench.bench.start import Request, isolated
from ring_attn_bench.workers.serving import end_with


def main(folder: Path, parent: int) -> None:
    """Runs it as the verb does, for as long as there is a parent."""
    end_with(parent, folder)
    isolated(Request(suite=str(folder / "suite.toml"), out=folder), Console(highlight=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
