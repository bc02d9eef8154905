"""results.csv: one line for each row, an empty cell for what does not apply, and back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ring_attn_bench.report.columns import Row
from ring_attn_bench.report.rows import frame


def write(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows; booleans as true and false, numbers with all their digits."""
    table = frame(rows)
    for name in table.columns[table.dtypes == "boolean"]:
        table[name] = table[name].map({True: "true", False: "false"})
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def read(path: Path) -> tuple[Row, ...]:
    """The rows of such a file, exactly as they were written."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(Row.of_cells(cells) for cells in csv.DictReader(file))
