"""Rows for a program: the columns of results.csv, numbers as numbers and null for what is empty."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ring_attn_bench.report.columns import ReportRow

SCHEMA = 1
"""Of the form, which stays as it is but for columns that come; they are told apart by name."""


def text(rows: Sequence[ReportRow]) -> str:
    """One object: the form's version, how many rows are failures, and the rows."""
    failures = sum(row.status.is_failure for row in rows)
    cells = [row.cells() for row in rows]
    return json.dumps({"schema": SCHEMA, "failures": failures, "rows": cells}, indent=1)
