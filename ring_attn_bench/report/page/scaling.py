"""How rates grow: with the length, and with the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, device, direction, group, holder, mask
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.report.plots.lines import interval
from ring_attn_bench.report.scaled import SCALINGS, Line, Scaling, compared, last, lines
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
            contestants = group(timed, lambda row: row.contestant).values()
            by_length = [{row.seqlen_per_gpu: row for row in x} for x in contestants]
            yield _grid(material, caption, by_length, tokens)


def _by_ranks(material: Material) -> Iterator[Block]:
    """Tokens of a rank as they are (weak), then tokens of all as they are (strong)."""
    blocks = [block for scaling in SCALINGS for block in _scaled(material, scaling)]
    if not blocks:
        sizes = {row.world_size for row in material.rows}
        if len(sizes) == 1 and material.timed:
            yield Prose((_NO_RANKS,))
        return
    yield Heading("By the number of ranks")
    yield from blocks


def _scaled(material: Material, scaling: Scaling) -> Iterator[Block]:
    """By shape its picture, and a table for each mask, direction and size."""
    by_shape = group(material.timed, lambda row: SharedShape.of(row).but_for_ranks)
    for shape, of_shape in by_shape.items():
        yield from material.pictures(scaling.name, shape)
        for rows in compared(of_shape, scaling):
            first = rows[0]
            kept = scaling.told(first, "rank")
            way = f"{direction(first)}, {mask(first)}, {shape.title}"
            yield _grid(material, f"{scaling.name} scaling: {kept}, {way}", lines(rows), _ranks)


def _ranks(size: int) -> str:
    return f"W = {size}"


def _grid(
    material: Material, caption: str, found: Sequence[Line], head: Callable[[int], str]
) -> Cells:
    """A line for each contestant, the fastest on the right first; a column for each value."""
    places = sorted({place for line in found for place in line})
    tops = {place: max(_rate(line.get(place)) for line in found) for place in places}
    columns = (Column("who", "word"), *(Column(head(place)) for place in places))
    body = []
    for line in found:
        rates = [_rate(line.get(place)) for place in reversed(places)]
        cells = (_cell(line.get(place), tops[place]) for place in places)
        body.append((rates, (material.who(last(line)), *cells)))
    body.sort(key=lambda line: line[0], reverse=True)
    return Cells(caption, columns, tuple(cells for _, cells in body))


def _rate(row: ReportRow | None) -> float:
    return 0.0 if row is None else row.tflops_per_gpu or 0.0


def _cell(row: ReportRow | None, top: float) -> Cell:
    if row is None or row.tflops_per_gpu is None:
        return Cell("")
    side = max(interval(row))
    text = digits(row.tflops_per_gpu) + (f" ± {digits(side, 2)}" if side else "")
    return Cell(text, row.tflops_per_gpu, heat=row.tflops_per_gpu / top if top else None)
