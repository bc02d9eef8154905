"""Writes ring_attn_bench/advise/measured.csv from the committed records: what `advise` knows where
only the wheel is. A test holds that file against results/.

    .venv/bin/python scripts/advise_figures.py
"""

from __future__ import annotations

from pathlib import Path

from ring_attn_bench.advise.figures import CPU, SHIPPED, Figure, as_csv, newest, of_records
from ring_attn_bench.records import files
from ring_attn_bench.records.record import read
from ring_attn_bench.records.status import Status

RESULTS = Path(__file__).parents[1] / "results"


def figures() -> tuple[Figure, ...]:
    """Of every committed run, the newest of each way and shape, failures too; of GPUs only."""
    found = [
        figure
        for path in sorted(RESULTS.glob("*/records.jsonl.gz"))
        for figure in of_records(path.parent.name, read(path))
    ]
    return newest(figure for figure in found if _counts(figure))


def _counts(figure: Figure) -> bool:
    failed = figure.status is not Status.OK and figure.shape.gpu != CPU
    return failed or figure.call is not None


if __name__ == "__main__":
    files.write(SHIPPED, as_csv(figures()))
    print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e3:.0f} kB")
