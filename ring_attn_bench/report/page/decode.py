"""Attention over a cache: a table for each kind of heads, apart from all rings."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.report import tables
from ring_attn_bench.report.over_cache import families
from ring_attn_bench.report.page.errors import by_tensor
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cells, Heading, Section

_LEAD = (
    "Queries at the end of what a cache holds, without a ring or over a cache that is dealt to "
    "ranks. Who is the fastest of a case, TB/s and TFLOP/s are by the time in a CUDA graph where "
    "there is one, else by that of a call in a loop, the host's work included. TB/s are those of K "
    "and V that some query sees, each byte once; % of reading is beside a maximum over a large "
    "tensor in the same run, by torch: no limit, and kernels may read faster. Caches of the timed "
    "calls are together larger than the GPU's own."
)


def section(material: Material) -> Section:
    """Of rows over a cache alone: speed and errors of each family."""
    blocks: list[Block] = []
    for family, rows in families(material.rows).items():
        blocks.append(Heading(family.heading(rows)))
        blocks += material.pictures_of("reading", family.slug, family.heading(rows))
        blocks += [_whole(Cells.of(table)) for table in tables.cached(rows)]
        blocks += by_tensor(rows)
    return Section("decode", "Over a cache", _LEAD, tuple(blocks))


def _whole(grid: Cells) -> Cells:
    """With the case in every line, so that lines stand in any order."""
    case = grid.columns.index(next(x for x in grid.columns if x.head == "backend"))
    above = grid.rows[0][:case]
    rows = []
    for row in grid.rows:
        above = row[:case] if row[0].text else above
        who = replace(row[case], who=row[case].text)
        rows.append((*above, who, *row[case + 1 :]))
    return replace(grid, rows=tuple(rows))
