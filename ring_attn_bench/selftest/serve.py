"""One run of `bench` over planted faults: `-m ring_attn_bench.selftest.serve SUITE FOLDER`.

A process of its own, because plug-ins are looked up where Python's path begins, and its workers
inherit that path. No report is written: the parent reads the records.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ring_attn_bench.bench.start import Request, isolated


def main(suite: str, folder: str) -> None:
    """Runs it as the verb does."""
    isolated(Request(suite=suite, out=Path(folder)), Console(highlight=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
