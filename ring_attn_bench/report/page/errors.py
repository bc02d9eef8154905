"""How right: by tensor for each backend and contestant, and by the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ring_attn_bench.report import tables
from ring_attn_bench.report.columns import TENSORS, ReportRow
from ring_attn_bench.report.groups import WHO, SharedShape, group, mask, varying
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.text.digits import plural, times


def section(material: Material) -> Section:
    """By the number of ranks first, where there are several; then every shape."""
    blocks: list[Block] = list(_by_ranks(material))
    for shape, rows in material.shapes.items():
        shown: list[Block] = [*material.pictures("errors", shape), *_by_tensor(rows)]
        if shown and (len(material.shapes) > 1 or blocks):
            blocks.append(Heading(material.headings[shape]))
        blocks += shown
    if not blocks:
        blocks = [Prose(("No row was compared with float64.",))]
    lead = (
        "Against float64, over all ranks. Of several records the one is shown that uses most of "
        "what is allowed. rmse / no ring is beside the same kernel in one call: what the ring "
        "adds, apart from what the kernel has."
    )
    return Section("accuracy", "Accuracy", lead, tuple(blocks))


def _by_tensor(rows: Sequence[ReportRow]) -> Iterator[Cells]:
    """By backend; where there are more contestants, all of them too, folded away."""
    for table in (*tables.accuracy(rows), *tables.exactness(rows)):
        yield _whole(Cells.of(table))
    if len(varying(rows)) > 1:
        for table in tables.accuracy(rows, WHO):
            grid = _whole(Cells.of(table, folded=True))
            yield replace(grid, caption=f"every contestant: {grid.caption}")


def _whole(grid: Cells) -> Cells:
    """With the names that a table for a terminal says once, so that lines stand in any order."""
    names = grid.columns.index(Column("tensor", "word"))
    above: tuple[Cell, ...] = ()
    rows = []
    for row in grid.rows:
        above = row[:names] if row[0].text else above
        first = replace(above[0], who=above[0].text)
        rows.append((first, *above[1:], *row[names:]))
    return replace(grid, rows=tuple(rows))


def _by_ranks(material: Material) -> Iterator[Block]:
    """The worst error of each backend and tensor beside plain PyTorch's, a column for each W."""
    rows = [row for row in material.rows if row.oracle]
    blocks: list[Block] = []
    for shape, of_shape in group(rows, lambda row: SharedShape.of(row).but_for_ranks).items():
        blocks += material.pictures("growth", shape)
        for alike in group(of_shape, lambda row: row.causal).values():
            sizes = sorted({row.world_size for row in alike})
            if len(sizes) > 1:
                blocks.append(_grid(alike, sizes))
    if blocks:
        yield Heading("By the number of ranks")
        yield from blocks


def _grid(rows: Sequence[ReportRow], sizes: Sequence[int]) -> Cells:
    columns = (
        Column("backend", "word"),
        Column("tensor", "word"),
        Column("beside", "word", "whose rmse it is divided by"),
        *(Column(f"W = {size}") for size in sizes),
    )
    lines = []
    for name, of_backend in group(rows, lambda row: row.backend).items():
        for tensor in TENSORS:
            for beside, key in (("PyTorch", "vs_pytorch"), ("no ring", "vs_one_gpu")):
                cells = [_worst(of_backend, size, tensor, key) for size in sizes]
                if any(cell.text for cell in cells):
                    words = Cell(name, who=name), Cell(tensor), Cell(beside)
                    lines.append((*words, *cells))
    shape = SharedShape.of(rows[0]).title
    caption = (
        f"rmse over another's, {mask(rows[0])}, {shape}, worst of {plural(len(rows), 'record')}"
    )
    return Cells(caption, columns, tuple(lines))


def _worst(rows: Sequence[ReportRow], size: int, tensor: str, key: str) -> Cell:
    ratios = [getattr(row.ratios[tensor], key) for row in rows if row.world_size == size]
    worst = max((ratio for ratio in ratios if ratio is not None), default=None)
    return Cell(times(worst), worst)
