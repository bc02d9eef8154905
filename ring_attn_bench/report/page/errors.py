"""How right: by tensor for each backend and contestant, and by the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ring_attn_bench.report import tables
from ring_attn_bench.report.columns import TENSORS, Ratios, ReportRow
from ring_attn_bench.report.groups import WHO, SharedShape, group, mask, varying
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.text.digits import plural, times


def section(material: Material) -> Section:
    """By the number of ranks first, where there are several; then every shape."""
    blocks: list[Block] = list(_by_ranks(material))
    for shape, rows in material.shapes.items():
        shown: list[Block] = [*material.pictures("errors", shape), *by_tensor(rows)]
        if shown and (len(material.shapes) > 1 or blocks):
            blocks.append(Heading(material.headings[shape]))
        blocks += shown
    if not blocks:
        blocks = [Prose(("No row was compared with float64.",))]
    lead = (
        "Against float64, over all ranks. Of several records the one is shown that uses most of "
        "what is allowed. rmse / no ring is beside the same kernel in one call: what merging "
        "adds to what the kernel has by itself."
    )
    return Section("accuracy", "Accuracy", lead, tuple(blocks))


def by_tensor(rows: Sequence[ReportRow]) -> Iterator[Cells]:
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
    """The worst error of each backend and tensor, the kernel's own apart; a column for each W."""
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
        Column("rmse of", "word", "whose, over whose; no ring is the same kernel in one call"),
        *(Column(f"W = {size}") for size in sizes),
    )
    lines = []
    for name, of_backend in group(rows, lambda row: row.backend).items():
        for tensor in TENSORS:
            for words, ratio in _RATIOS.items():
                cells = [_worst(of_backend, size, tensor, ratio) for size in sizes]
                if any(cell.text for cell in cells):
                    lines.append((Cell(name, who=name), Cell(tensor), Cell(words), *cells))
    shape = SharedShape.of(rows[0]).title
    caption = (
        f"rmse over another's, {mask(rows[0])}, {shape}, worst of {plural(len(rows), 'record')}"
    )
    return Cells(caption, columns, tuple(lines))


def _kernels_own(ratios: Ratios) -> float | None:
    """The kernel's in one call over PyTorch's: what it has without any merging."""
    if ratios.vs_pytorch is None or not ratios.vs_one_gpu:
        return None
    return ratios.vs_pytorch / ratios.vs_one_gpu


_RATIOS: Mapping[str, Callable[[Ratios], float | None]] = {
    "ring / PyTorch": lambda ratios: ratios.vs_pytorch,
    "no ring / PyTorch": _kernels_own,
    "ring / no ring": lambda ratios: ratios.vs_one_gpu,
}
"""All of a ring's error, what of it the kernel has, and what merging adds to that."""


def _worst(
    rows: Sequence[ReportRow], size: int, tensor: str, ratio: Callable[[Ratios], float | None]
) -> Cell:
    ratios = [ratio(row.ratios[tensor]) for row in rows if row.world_size == size]
    worst = max((found for found in ratios if found is not None), default=None)
    return Cell(times(worst), worst)
