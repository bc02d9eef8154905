"""How fast: one table for each case and direction, the fastest contestant first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ring_attn_bench.bench.record import Status
from ring_attn_bench.report.columns import Row
from ring_attn_bench.report.formats import digits, percent, tokens
from ring_attn_bench.report.groups import Shape, constants, device, group, machine, mask, varying
from ring_attn_bench.report.tables.table import Notes, Table


def speed(rows: Sequence[Row]) -> list[Table]:
    """The tables; a contestant without a figure shows its status instead, and why below."""
    groups = group(rows, lambda row: (row.case, row.direction))
    return [_table(found) for found in groups.values()]


def figures(unit: str) -> dict[str, Callable[[Row], str]]:
    """Header to cell of the number columns."""
    return {
        "latency ms": lambda row: digits(row.latency_ms, 4),
        "±": interval,
        f"TFLOP/s/{unit}": lambda row: digits(row.tflops_per_gpu),
        f"% of 1 {unit}": lambda row: percent(row.percent_of_one_gpu),
        "% of twin": lambda row: percent(row.percent_of_twin),
        "memory MiB": lambda row: digits(row.peak_extra_mib),
    }


def interval(row: Row) -> str:
    """The larger side of the median's interval, as a share of the median: 0.3 %."""
    if row.latency_ms is None or row.latency_ms_lo is None or row.latency_ms_hi is None:
        return ""
    side = max(row.latency_ms - row.latency_ms_lo, row.latency_ms_hi - row.latency_ms)
    return f"{100 * side / row.latency_ms:.1f} %"


def instead(row: Row, notes: Notes) -> str:
    """What stands where a speed would: oom [1]."""
    if row.status is not Status.OK:
        return f"{row.status.value} {notes.cite(row.reason)}"
    return "interpreted" if row.interpreted else "not timed"


def caption(rows: Sequence[Row], *more: str) -> str:
    """What is the same for all rows of a table."""
    shape = Shape.of(rows[0])
    return "; ".join((f"{machine(rows)}, {shape.title}", *more, *constants(rows)))


def _table(rows: Sequence[Row]) -> Table:
    first, who, notes = rows[0], varying(rows), Notes()
    columns = figures(device(rows))
    body = []
    for row in sorted(rows, key=_fastest_first):
        name = tuple(str(getattr(row, column)) for column in who)
        cells = tuple(cell(row) for cell in columns.values())
        if row.latency_ms is None:
            cells = (instead(row, notes), *cells[1:])
        body.append(name + cells)
    title = f"{first.direction.value}, {mask(first)}, {tokens(first.seqlen_per_gpu)} tokens each"
    headers = (*who, *columns)
    text = f"{title}: {caption(rows)}"
    return Table(text, headers, tuple(body), len(who), notes.texts).filled()


def _fastest_first(row: Row) -> tuple[bool, float, str]:
    """Rows without a figure last, in the order of their status."""
    return row.latency_ms is None, row.latency_ms or 0.0, row.status.value
