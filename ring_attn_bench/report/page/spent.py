"""Where the time goes: one call of the kernel, and what a ring takes beyond it, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import device, direction, holder, mask
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import (
    Block,
    Cell,
    Cells,
    Column,
    Heading,
    Prose,
    Section,
    Tone,
)
from ring_attn_bench.report.parts import lost, parts
from ring_attn_bench.text.digits import digits, percent, plural, tokens

_MINUS = "\N{MINUS SIGN}"
_LEAD = (
    "One call is the same kernel without a ring, at one device's share of the work; the twin makes "
    "the ring's launches on local keys. Uneven work is what the busiest rank has beyond its share, "
    "by the plan, at the pace of one call; launches are what the twin takes beyond both; "
    "communication is what the ring takes beyond the twin. A part that is within noise (95 %) is "
    "none. The link's own time is what its measured ceiling would take for the bytes of the plan: "
    "communication beyond that is no transfer but ranks that wait and launches that are slowed "
    "down, and what of it no communication shows is hidden."
)


def section(material: Material) -> Section:
    """For each shape a picture, and a line for each row that was timed beside one call or its twin;
    those that lose most of their time first."""
    blocks: list[Block] = []
    for shape, rows in material.shapes.items():
        shown: list[Block] = [*material.pictures("time", shape), *_grid(material, rows)]
        if shown and len(material.shapes) > 1:
            blocks.append(Heading(material.headings[shape]))
        blocks += shown
    if not blocks:
        blocks = [Prose(("No row was timed beside one call of its kernel or its twin.",))]
    else:
        blocks = [Prose(tuple(_said(material)), points=True), *blocks]
    return Section("time", "Where the time goes", _LEAD, tuple(blocks))


def _said(material: Material) -> Iterator[str]:
    """To what rows lose most, and which one loses most."""
    found = [row for row in material.timed if lost(row) is not None]
    for what, count in Counter(row.loses_most for row in found if row.loses_most).most_common():
        (worst, *_) = sorted(
            (row for row in found if row.loses_most == what), key=lambda x: -(lost(x) or 0.0)
        )
        yield (
            f"{plural(count, 'row')} of {len(found)} {'loses' if count == 1 else 'lose'} most to "
            f"{what}; the worst of them is {_named(material, worst)}, "
            f"{percent(lost(worst))} % of whose time one call would not have taken."
        )
    unknown = sum(row.loses_most is None for row in found)
    if unknown:
        yield (
            f"Of {plural(unknown, 'row')} nobody can say: what they lose is within noise, too few "
            "samples were taken, or the ring is somebody else's."
        )


def _named(material: Material, row: ReportRow) -> str:
    where = f"{direction(row)}, {mask(row)}, {tokens(row.seqlen_per_gpu)}"
    return f"{material.naming.label(row)} ({where})"


def _grid(material: Material, rows: Sequence[ReportRow]) -> Iterator[Cells]:
    shown = [row for row in rows if row.one_gpu_ms is not None or row.twin_ms is not None]
    if not shown:
        return
    unit = device(rows)
    which = (
        Column("direction", "word"),
        Column("mask", "word"),
        Column("tokens", meaning=f"per {holder(rows)}"),
        Column("who", "word"),
    )
    columns = (
        *which,
        Column("of the ring's time", "bar", "one call, uneven work, launches, communication as "
               "long as the link takes, communication beyond that"),
        Column("lost %", meaning=f"100 less % of 1 {unit}: what one call would not have taken"),
        Column("mostly to", "word", "the largest part beyond noise"),
        Column("ring ms"),
        Column("one call ms", meaning=f"of the kernel, at one {unit}'s share of the work"),
        Column("uneven ms", meaning="the busiest rank's work beyond its share, an estimate"),
        Column("launches ms", meaning="twin less one call and uneven: more launches, merging, "
               "host; in brackets its 95 % interval"),
        Column("communication ms", meaning="ring less twin; in brackets as above"),
        Column("link alone ms", meaning="what the plan's bytes take at the measured ceiling"),
        Column("hidden ms", meaning="of that at least so much lies under launches"),
    )  # fmt: skip
    ordered = sorted(shown, key=_place)
    yield Cells("of each row, the worst first", columns, tuple(_line(material, x) for x in ordered))
    paces = (
        *which,
        Column("% of matmul", meaning="TFLOP/s beside a product of large matrices in the same run"),
        Column("% of link", meaning="100 x link alone / ring"),
        Column("work launched / useful"),
        Column("imbalance", meaning="the busiest rank's work over the mean"),
        Column("slowest rank", meaning="its median time over the mean of the others', and which"),
    )
    body = tuple(_pace(material, row) for row in ordered)
    yield Cells("pace and work of each row", paces, body, folded=True)


def _place(row: ReportRow) -> tuple[float, str, bool, int, float]:
    gone = lost(row)
    share = 1.0 if gone is None else -gone
    return share, row.direction.value, not row.causal, row.seqlen_per_gpu, row.latency_ms or 0.0


def _line(material: Material, row: ReportRow) -> tuple[Cell, ...]:
    gone, bar = lost(row), parts(row)
    return (
        *material.where(row)[:3],
        material.who(row),
        Cell("") if bar is None else Cell(bar.text, bar.shares[0], parts=bar.shares),
        Cell(percent(gone), gone),
        Cell(row.loses_most or ""),
        Cell(digits(row.latency_ms, 4), row.latency_ms),
        Cell(digits(row.one_gpu_ms), row.one_gpu_ms),
        Cell(digits(row.uneven_ms, 2), row.uneven_ms),
        _difference(row.launches_ms, row.launches_ms_lo, row.launches_ms_hi),
        _difference(row.communication_ms, row.communication_ms_lo, row.communication_ms_hi),
        Cell(digits(row.link_ms, 2), row.link_ms),
        Cell(digits(row.hidden_ms, 2), row.hidden_ms),
    )


def _pace(material: Material, row: ReportRow) -> tuple[Cell, ...]:
    return (
        *material.where(row)[:3],
        material.who(row),
        Cell(percent(row.percent_of_matmul), row.percent_of_matmul),
        Cell(percent(row.percent_of_link), row.percent_of_link),
        Cell("" if (work := row.executed_over_useful_flops) is None else f"{work:.2f}"),
        Cell("" if row.imbalance is None else f"{row.imbalance:.2f}"),
        _slowest(row),
    )


def _difference(ms: float | None, low: float | None, high: float | None) -> Cell:
    """0.42 (0.19 to 0.59), within noise (-0.1 to 0.3), or, of too few samples, 0.42 (?)."""
    if ms is None:
        return Cell("")
    if low is None or high is None:
        return Cell(f"{_signed(ms)} (?)", ms, "quiet")
    between = f"({_signed(low)} to {_signed(high)})"
    if low <= 0 <= high:
        return Cell(f"within noise {between}", 0.0, "quiet")
    tone: Tone = "" if ms > 0 else "quiet"
    return Cell(f"{_signed(ms)} {between}", ms, tone)


def _slowest(row: ReportRow) -> Cell:
    """1.02x, rank 3."""
    if row.slowest_over_others is None:
        return Cell("")
    return Cell(f"{row.slowest_over_others:.2f}x, rank {row.slowest_rank}", row.slowest_over_others)


def _signed(value: float) -> str:
    """To two digits: a difference of medians knows no more; a true minus, as in print."""
    return digits(value, 2).replace("-", _MINUS)
