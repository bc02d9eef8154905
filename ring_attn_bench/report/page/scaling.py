"""How rates grow: with the length, and with the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, device, direction, group, holder, mask
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.report.plots.lines import interval
from ring_attn_bench.text.digits import digits, tokens

_NO_RANKS = "All rings of this run have one size, so nothing is said of more or fewer ranks."


def section(material: Material) -> Section:
    """By length for each shape; weak and strong scaling where rings of several sizes were timed."""
    lead = (
        f"Useful TFLOP/s per {device(material.rows)} ± how far the 95 % interval of the median "
        "reaches. The stronger its colour, the nearer it is to the fastest of the column."
    )
    blocks: list[Block] = []
    for shape, rows in material.shapes.items():
        shown: list[Block] = [*material.pictures("throughput", shape), *_by_length(material, rows)]
        if shown and len(material.shapes) > 1:
            blocks.append(Heading(material.headings[shape]))
        blocks += shown
    return Section("scaling", "Scaling", lead, (*blocks, *_by_ranks(material)))


def _by_length(material: Material, rows: Sequence[ReportRow]) -> Iterator[Cells]:
    for alike in group(rows, lambda row: (row.causal, row.direction)).values():
        timed = [row for row in alike if row.latency_ms is not None]
        if len({row.seqlen_per_gpu for row in timed}) > 1:
            what = f"by tokens per {holder(rows)}"
            caption = f"{direction(alike[0])}, {mask(alike[0])}, {what}"
            yield _grid(material, caption, timed, lambda row: row.seqlen_per_gpu, tokens)


def _by_ranks(material: Material) -> Iterator[Block]:
    """Tokens of a rank as they are (weak), then tokens of all as they are (strong)."""
    grids = [
        *_scaled(material, _weak, "weak scaling"),
        *_scaled(material, _strong, "strong scaling"),
    ]
    if not grids:
        sizes = {row.world_size for row in material.rows}
        if len(sizes) == 1 and material.timed:
            yield Prose((_NO_RANKS,))
        return
    yield Heading("By the number of ranks")
    yield from grids


def _weak(row: ReportRow) -> tuple[int, str]:
    return row.seqlen_per_gpu, f"{tokens(row.seqlen_per_gpu)} tokens on each rank"


def _strong(row: ReportRow) -> tuple[int, str]:
    return row.seqlen_total, f"{tokens(row.seqlen_total)} tokens in all"


def _scaled(
    material: Material, size: Callable[[ReportRow], tuple[int, str]], kind: str
) -> Iterator[Cells]:
    def alike(row: ReportRow) -> tuple[object, ...]:
        return SharedShape.of(row).but_for_ranks, row.causal, row.direction, size(row)

    for rows in group(material.timed, alike).values():
        if len({row.world_size for row in rows}) > 1:
            first = rows[0]
            way = direction(first)
            shape = SharedShape.of(first).title
            caption = f"{kind}: {size(first)[1]}, {way}, {mask(first)}, {shape}"
            yield _grid(material, caption, rows, lambda row: row.world_size, lambda w: f"W = {w}")


def _grid(
    material: Material,
    caption: str,
    rows: Sequence[ReportRow],
    at: Callable[[ReportRow], int],
    head: Callable[[int], str],
) -> Cells:
    """A line for each contestant, the fastest on the right first; a column for each value."""
    places = sorted({at(row) for row in rows})
    tops = {place: max(x.tflops_per_gpu or 0.0 for x in rows if at(x) == place) for place in places}
    columns = (Column("who", "word"), *(Column(head(place)) for place in places))
    lines = []
    for of_contestant in group(rows, _who).values():
        known = {at(row): row for row in of_contestant}
        rates = [_rate(known.get(place)) for place in reversed(places)]
        cells = (_cell(known.get(place), tops[place]) for place in places)
        lines.append((rates, (material.who(of_contestant[0]), *cells)))
    lines.sort(key=lambda line: line[0], reverse=True)
    return Cells(caption, columns, tuple(cells for _, cells in lines))


def _who(row: ReportRow) -> tuple[object, ...]:
    """A contestant, whatever ranks were played by whom."""
    return row.backend, row.partition, *row.options.items(), row.transport.partition("-")[0]


def _rate(row: ReportRow | None) -> float:
    return 0.0 if row is None else row.tflops_per_gpu or 0.0


def _cell(row: ReportRow | None, top: float) -> Cell:
    if row is None or row.tflops_per_gpu is None:
        return Cell("")
    side = max(interval(row))
    text = digits(row.tflops_per_gpu) + (f" ± {digits(side, 2)}" if side else "")
    return Cell(text, row.tflops_per_gpu, heat=row.tflops_per_gpu / top if top else None)
