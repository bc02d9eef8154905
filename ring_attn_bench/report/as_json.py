"""Rows for a program: the columns of results.csv, numbers as numbers and null for what is empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite

from ring_attn_bench.report.columns import KINDS, Cell, ReportRow

SCHEMA = 1
"""Of the form, which stays as it is but for columns that come; they are told apart by name."""


def text(rows: Sequence[ReportRow]) -> str:
    """One object: the form's version, how many rows are failures, and the rows."""
    failures = sum(row.status.is_failure for row in rows)
    cells = [{name: _known(name, cell) for name, cell in row.cells().items()} for row in rows]
    told = {"schema": SCHEMA, "failures": failures, "rows": cells}
    return json.dumps(told, indent=1, allow_nan=False)


def _known(name: str, cell: Cell) -> Cell:
    """JSON has no word for a number that is not finite."""
    unknown = KINDS[name] is float and cell is not None and not isfinite(float(cell))
    return None if unknown else cell
