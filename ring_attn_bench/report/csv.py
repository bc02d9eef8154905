"""results.csv: one line for each row, an empty cell for what does not apply, and back."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from ring_attn_bench.records import files, sheets
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.rows import frame


def write(rows: Sequence[ReportRow], path: Path) -> None:
    """Writes the rows; booleans as true and false, numbers with all their digits."""
    table = frame(rows)
    for name in table.columns[table.dtypes == "boolean"]:
        table[name] = table[name].map({True: "true", False: "false"})
    for name in table.columns[table.dtypes == "string"]:
        table[name] = table[name].map(sheets.guarded, na_action="ignore")
    # pandas turns numbers into text, and quotes as the csv module does: see `joined`
    cells = csv.reader(StringIO(table.to_csv(index=False, lineterminator="\r\n"), newline=""))
    files.write(path, sheets.joined(cells))


def read(path: Path) -> tuple[ReportRow, ...]:
    """The rows of such a file, or of the one in such a folder, as written; raises FileError."""
    return sheets.values(path, "results.csv", "rows", ReportRow.of_cells)
