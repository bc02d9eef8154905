"""What did not run to a right end, and why: each reason once, whoever gave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import Naming, group
from ring_attn_bench.text.digits import plural
from ring_attn_bench.text.table import Table

_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that ended alike, for one reason."""

    status: Status
    reason: str
    rows: tuple[ReportRow, ...]


def by_reason(rows: Sequence[ReportRow]) -> list[Gap]:
    """All of them, the worst first, then the ones that most rows gave."""
    bad = [row for row in rows if row.status is not Status.OK]
    gaps = [
        Gap(status, reason, tuple(alike))
        for (status, reason), alike in group(bad, lambda x: (x.status, x.reason or "")).items()
    ]
    return sorted(gaps, key=lambda gap: (-gap.status.badness, -len(gap.rows)))


def who(rows: Sequence[ReportRow], naming: Naming, most: int = _SHOWN) -> str:
    """The first contestants of the rows, and how many more."""
    labels = list(dict.fromkeys(naming.label(row) for row in rows))
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def gaps(rows: Sequence[ReportRow]) -> list[Table]:
    """One table, or none where everything is right."""
    naming = Naming.of(rows)
    body = tuple(
        (gap.status.value, str(len(gap.rows)), who(gap.rows, naming), gap.reason)
        for gap in by_reason(rows)
    )
    headers = ("status", "rows", "who", "reason")
    return [Table("what did not run", headers, body, names=len(headers))] if body else []


def untimed(rows: Sequence[ReportRow]) -> str:
    """In a sentence, what is right and has no time, where nothing has one."""
    right = [row for row in rows if row.status is Status.OK]
    interpreted = sum(row.interpreted for row in right)
    cases = plural(len({row.case for row in right}), "case")
    told = f", {interpreted} of them interpreted" if interpreted else ""
    return f"Not timed: {plural(len(right), 'right row')} of {cases}{told}; errors are below."
