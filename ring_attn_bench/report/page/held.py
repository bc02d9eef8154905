"""Memory: what a call takes beyond its inputs, and what stays between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import direction, group, holder, mask
from ring_attn_bench.report.page import predicted
from ring_attn_bench.report.page.material import MEMORY, Material, memory
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.text.digits import tokens


def section(material: Material) -> Section:
    """A picture and a table for each shape, direction and mask, the smallest first; predictions."""
    blocks: list[Block] = []
    for shape, rows in material.shapes.items():
        shown: list[Block] = [*material.pictures("memory", shape), *_grids(material, rows)]
        if shown and len(material.shapes) > 1:
            blocks.append(Heading(material.headings[shape]))
        blocks += shown
    blocks += predicted.blocks(material)
    if not blocks:
        blocks = [Prose(("No memory was measured: there is none to measure without a GPU.",))]
    return Section("memory", "Memory", f"{MEMORY}; the largest over ranks.", tuple(blocks))


def _grids(material: Material, rows: Sequence[ReportRow]) -> Iterator[Cells]:
    measured = [row for row in rows if row.peak_extra_mib is not None and row.status.value == "ok"]
    for alike in group(measured, lambda row: (row.causal, row.direction)).values():
        lengths = sorted({row.seqlen_per_gpu for row in alike})
        columns = (Column("who", "word"), *(Column(tokens(length)) for length in lengths))
        lines = []
        for of_contestant in group(alike, lambda row: row.contestant).values():
            known = {row.seqlen_per_gpu: row for row in of_contestant}
            cells = [memory(known[x]) if x in known else Cell("") for x in lengths]
            size = [cell.rank or 0.0 for cell in reversed(cells)]
            missing = [not cell.text for cell in reversed(cells)]
            lines.append(((missing, size), (material.who(of_contestant[0]), *cells)))
        lines.sort(key=lambda line: line[0])
        way = direction(alike[0])
        caption = f"{way}, {mask(alike[0])}, MiB by tokens per {holder(rows)}"
        yield Cells(caption, columns, tuple(cells for _, cells in lines))
