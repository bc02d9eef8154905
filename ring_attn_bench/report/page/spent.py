"""Where the time goes: one call of the kernel, what a ring's launches add, and communication."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import device, holder
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose, Section
from ring_attn_bench.text.digits import digits, percent


def section(material: Material) -> Section:
    """A table for each shape, a line for each row that was timed beside one call or its twin."""
    blocks: list[Block] = []
    for shape, rows in material.shapes.items():
        grids = list(_grid(material, rows))
        if grids and len(material.shapes) > 1:
            blocks.append(Heading(material.headings[shape]))
        blocks += grids
    if not blocks:
        blocks = [Prose(("No row was timed beside one call of its kernel or its twin.",))]
    lead = (
        "One call is the same kernel without a ring, at one device's share of the work; the twin "
        "makes the ring's launches on local keys. So launches are twin less one call, and "
        "communication is ring less twin: what is less than nothing is noise, or an order of work "
        "that one call has not. A bar is the ring's time: one call, launches, communication."
    )
    return Section("time", "Where the time goes", lead, tuple(blocks))


def _grid(material: Material, rows: Sequence[ReportRow]) -> Iterator[Cells]:
    shown = [row for row in rows if row.one_gpu_ms is not None or row.twin_ms is not None]
    if not shown:
        return
    unit = device(rows)
    columns = (
        Column("direction", "word"),
        Column("mask", "word"),
        Column("tokens", meaning=f"per {holder(rows)}"),
        Column("who", "word"),
        Column("of the ring's time", "bar", "one call, launches, communication"),
        Column("ring ms"),
        Column("one call ms", meaning=f"of the kernel, at one {unit}'s share of the work"),
        Column("launches ms", meaning="twin less one call: more launches, merging, host"),
        Column("communication ms", meaning="ring less twin: what is not hidden"),
        Column(f"% of 1 {unit}", meaning="100 x one call / ring"),
        Column("% of twin", meaning="100 x twin / ring"),
        Column("work launched / useful"),
        Column("imbalance", meaning="the busiest rank's work over the mean"),
        Column("slowest rank", meaning="its median time over the mean of the others', and which"),
    )
    ordered = sorted(shown, key=_place)
    yield Cells("of each row", columns, tuple(_line(material, x) for x in ordered))


def _place(row: ReportRow) -> tuple[str, bool, int, float]:
    return row.direction.value, not row.causal, -row.seqlen_per_gpu, row.latency_ms or 0.0


def _line(material: Material, row: ReportRow) -> tuple[Cell, ...]:
    ring, one, twin = row.latency_ms, row.one_gpu_ms, row.twin_ms
    launches = None if one is None or twin is None else twin - one
    sent = None if ring is None or twin is None else ring - twin
    return (
        *material.where(row)[:3],
        material.who(row),
        _bar(ring, one, launches, sent),
        Cell(digits(ring, 4), ring),
        Cell(digits(one), one),
        Cell(_signed(launches), launches),
        Cell(_signed(sent), sent),
        Cell(percent(row.percent_of_one_gpu)),
        Cell(percent(row.percent_of_twin)),
        Cell("" if (work := row.executed_over_useful_flops) is None else f"{work:.2f}"),
        Cell("" if row.imbalance is None else f"{row.imbalance:.2f}"),
        _slowest(row),
    )


def _slowest(row: ReportRow) -> Cell:
    """1.02x, rank 3."""
    if row.slowest_over_others is None:
        return Cell("")
    return Cell(f"{row.slowest_over_others:.2f}x, rank {row.slowest_rank}", row.slowest_over_others)


def _signed(value: float | None) -> str:
    """To two digits: a difference of medians knows no more; a true minus, as in print."""
    return "" if value is None else digits(value, 2).replace("-", "\N{MINUS SIGN}")


def _bar(ring: float | None, one: float | None, *rest: float | None) -> Cell:
    """Shares of the ring's time; what is below nothing is none, and all fit into the whole."""
    if not ring or one is None:
        return Cell("")
    parts = [max(0.0, part or 0.0) for part in (one, *rest)]
    whole = max(ring, sum(parts))
    shares = tuple(part / whole for part in parts)
    text = " + ".join(f"{100 * share:.0f}" for share in shares)
    return Cell(f"{text} %", shares[0], parts=shares)
