"""What did not run, and what is wrong: each reason once, with the command that shows it again."""

from __future__ import annotations

from collections.abc import Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Prose, Section, Tone
from ring_attn_bench.report.tables import counts
from ring_attn_bench.report.tables.gaps import Gap, by_reason
from ring_attn_bench.text.digits import plural

_CASES = 3


def section(material: Material) -> Section:
    """Rows by backend and status, then the reasons, the worst first."""
    blocks: list[Block] = []
    gaps = by_reason(material.rows)
    if gaps:
        columns = (
            Column("status", "word"),
            Column("rows"),
            Column("who", "word"),
            Column("reason", "word"),
            Column("where", "word"),
            Column("again", "code"),
        )
        rows = tuple(_line(material, gap) for gap in gaps)
        blocks.append(Cells("reasons, the worst first", columns, rows))
    else:
        blocks.append(Prose(("Everything ran to its end and was right.",)))
    blocks.append(_counts(material.rows))
    blocks += [Prose(material.gallery.skipped)] if material.gallery.skipped else []
    lead = "A wrong row has no speed. Unsupported and oom are answers, not failures."
    return Section("missing", "What did not run, and why", lead, tuple(blocks))


def _line(material: Material, gap: Gap) -> tuple[Cell, ...]:
    who = list(dict.fromkeys(material.naming.label(row) for row in gap.rows))
    tone: Tone = "bad" if gap.status.is_failure else "quiet"
    return (
        Cell(gap.status.value, gap.status.badness, tone),
        Cell(str(len(gap.rows))),
        Cell(", ".join(who)),
        Cell(gap.reason),
        Cell(_where(gap.rows)),
        Cell(gap.rows[0].command or ""),
    )


def _where(rows: Sequence[ReportRow]) -> str:
    cases = group(rows, lambda row: row.case)
    told = [
        f"{name} ({', '.join(dict.fromkeys(row.direction.value for row in of_case))})"
        for name, of_case in list(cases.items())[:_CASES]
    ]
    if len(cases) > _CASES:
        told.append(plural(len(cases) - _CASES, "more case"))
    return "; ".join(told)


def _counts(rows: Sequence[ReportRow]) -> Cells:
    grid = Cells.of(counts(rows))
    names = {row.backend for row in rows}
    body = tuple(
        (Cell(name.text, who=name.text if name.text in names else ""), *rest)
        for name, *rest in grid.rows
    )
    return Cells(grid.caption, grid.columns, body)
