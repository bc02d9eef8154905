"""Who computed, waited and sent when: a picture of the rows that lose most, and where all lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import relpath
from pathlib import PurePath, PurePosixPath

from ring_attn_bench.records.trace import Key, Trace, path_of, slug_of
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Picture, Section
from ring_attn_bench.report.parts import lost
from ring_attn_bench.report.plots import Drawn
from ring_attn_bench.text.digits import digits, percent

SHOWN = 6
"""Pictures on the page, at most; the others lie beside it."""
_LEAD = (
    "One more call of a row on all ranks, looked at and not among those that were timed. Launches "
    "stand on the upper line of each rank, with their steps' numbers, what the rank waits for "
    "beside them, and what travels below; the dashed line is where one call of the kernel would "
    "have ended. Each is a file for chrome://tracing or ui.perfetto.dev too."
)


def section(material: Material) -> Section | None:
    """None where no row was looked at."""
    rows = {_key(row): row for row in material.timed}
    found = [rows[trace.key] for trace in material.traces if trace.key in rows]
    if not found:
        return None
    worst = sorted(found, key=lambda row: -(lost(row) or 0.0))
    blocks: list[Block] = [*_pictures(material, worst), _grid(material, worst)]
    return Section("timelines", "Who waited when", _LEAD, tuple(blocks))


def shown(rows: Sequence[ReportRow], traces: Sequence[Trace]) -> set[Key]:
    """Of the rows that were looked at, the keys of those whose pictures a page shows."""
    losses = {_key(row): lost(row) or 0.0 for row in rows if row.latency_ms is not None}
    known = [trace.key for trace in traces if trace.key in losses]
    return set(sorted(known, key=lambda key: -losses[key])[:SHOWN])


def _key(row: ReportRow) -> Key:
    return row.case, row.contestant, row.direction.value


def _pictures(material: Material, rows: Sequence[ReportRow]) -> Iterator[Picture]:
    for row in rows:
        drawn = _drawn(material, row)
        if drawn is not None and drawn.svg:
            what = f"{row.contestant}, {row.direction.value}, {row.case}"
            trace = _place(material, path_of(material.run, _key(row)))
            path = _place(material, drawn.path)
            yield Picture(path, drawn.svg, f"timeline: {what}", str(trace), "its trace")


def _grid(material: Material, rows: Sequence[ReportRow]) -> Cells:
    columns = (
        *material.places,
        Column("who", "word"),
        Column("ring ms"),
        Column("lost %", meaning="what one call would not have taken"),
        Column("picture", "word"),
        Column("trace", "word", "for chrome://tracing and ui.perfetto.dev"),
    )
    lines = tuple(_line(material, row) for row in rows)
    return Cells(f"{len(rows)} rows that were looked at", columns, lines, folded=len(rows) > SHOWN)


def _line(material: Material, row: ReportRow) -> tuple[Cell, ...]:
    drawn = _drawn(material, row)
    trace = path_of(material.run, _key(row))
    return (
        *material.where(row),
        material.who(row),
        Cell(digits(row.latency_ms), row.latency_ms),
        Cell(percent(lost(row)), lost(row)),
        Cell("") if drawn is None else Cell("PNG", link=str(_place(material, drawn.path))),
        Cell("JSON", link=str(_place(material, trace))),
    )


def _drawn(material: Material, row: ReportRow) -> Drawn | None:
    slug = slug_of(_key(row))
    found = (x for x in material.gallery.pictures if (x.topic, x.shape) == ("timeline", slug))
    return next(found, None)


def _place(material: Material, path: PurePath) -> PurePosixPath:
    return PurePosixPath(PurePath(relpath(path, material.folder)).as_posix())
