"""Kernel x schedule x transport: the best rate of each combination, length by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import device, direction, group, holder, mask
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Section
from ring_attn_bench.text.digits import digits, tokens

_PEER = "a ring of its own"


def section(material: Material) -> Section:
    """A table for each shape, direction and mask in which anything has a speed."""
    lead = (
        f"Useful TFLOP/s per {device(material.rows)}: of each kernel the best that was measured "
        "with a schedule over a transport, whatever else was set. The stronger its colour, the "
        "nearer it is to the fastest of its length."
    )
    blocks: list[Block] = []
    for shape, rows in material.shapes.items():
        grids = list(_grids([row for row in rows if row.latency_ms is not None]))
        if grids and len(material.shapes) > 1:
            blocks.append(Heading(material.headings[shape]))
        blocks += grids
    return Section("matrix", "Kernel x schedule x transport", lead, tuple(blocks))


def _grids(rows: Sequence[ReportRow]) -> Iterator[Cells]:
    for alike in group(rows, lambda row: (row.causal, row.direction)).values():
        ways = sorted({_way(row) for row in alike}, key=lambda way: (way == _PEER, way))
        first = alike[0]
        caption = f"{direction(first)}, {mask(first)}"
        columns = (
            Column("tokens", meaning=f"per {holder(alike)}"),
            Column("kernel or peer", "word"),
            *(Column(way) for way in ways),
        )
        yield Cells(caption, columns, tuple(_lines(alike, ways)))


def _lines(rows: Sequence[ReportRow], ways: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    lengths = sorted(group(rows, lambda row: row.seqlen_per_gpu).items())
    for length, of_length in lengths:
        top = max(row.tflops_per_gpu or 0.0 for row in of_length)
        for name, of_backend in group(of_length, lambda row: row.backend).items():
            best = {way: max(map(_rate, x)) for way, x in group(of_backend, _way).items()}
            cells = (_cell(best.get(way), top) for way in ways)
            yield Cell(tokens(length), length), Cell(name, who=name), *cells


def _cell(rate: float | None, top: float) -> Cell:
    if rate is None or not top:
        return Cell("")
    return Cell(digits(rate), rate, "good" if rate == top else "", heat=rate / top)


def _rate(row: ReportRow) -> float:
    return row.tflops_per_gpu or 0.0


def _way(row: ReportRow) -> str:
    """Schedule and transport, in words for a column."""
    if is_peer(row.backend):
        return _PEER
    return f"{row.options['schedule'] or ''}, {row.transport}"
