"""How fast: one table for each case and direction, the fastest contestant first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import Naming, device, group, holder, mask, took
from ring_attn_bench.text.digits import digits, percent, tokens
from ring_attn_bench.text.table import Notes, Table

_KEPT = "MiB kept"
_GRAPH, _OF_ONE = "ms in a graph", "% of 1 there"
_FEW = "fewer than 6 samples, of which a median has no 95 % interval"


def speed(rows: Sequence[ReportRow]) -> list[Table]:
    """The tables of one shape; a contestant without a figure shows its status, and why below."""
    who, unit = Naming.of(rows), device(rows)
    groups = group(rows, lambda row: (row.case, row.direction))
    return [_table(alike, who, unit) for alike in groups.values()]


def _table(rows: Sequence[ReportRow], who: Naming, unit: str) -> Table:
    notes = Notes()
    columns = _figures(unit, notes)
    if all(row.kept_mib is None for row in rows):
        del columns[_KEPT]
    if all(row.graph_ms is None for row in rows):
        del columns[_GRAPH], columns[_OF_ONE]
    body = []
    for row in sorted(rows, key=_fastest_first):
        cells = tuple(cell(row) for cell in columns.values())
        if row.latency_ms is None:
            cells = (instead(row, notes), *cells[1:])
        body.append((*who.cells(row), *cells))
    first = rows[0]
    length = f"{tokens(first.seqlen_per_gpu)} tokens per {holder(rows)}"
    caption = f"{first.direction.value}, {mask(first)}, {length}"
    headers = (*who.heads, *columns)
    remarks = took(rows, who)
    return Table(
        caption, headers, tuple(body), len(who.heads), notes.texts, remarks=remarks
    ).filled()


def _figures(unit: str, notes: Notes) -> dict[str, Callable[[ReportRow], str]]:
    """By the head of a column of numbers, its cell."""
    return {
        "latency ms": lambda row: digits(row.latency_ms, 4),
        "±": lambda row: _interval(row, notes),
        f"TFLOP/s per {unit}": lambda row: digits(row.tflops_per_gpu),
        f"% of 1 {unit}": lambda row: percent(row.percent_of_one_gpu),
        "% of twin": lambda row: percent(row.percent_of_twin),
        _GRAPH: lambda row: digits(row.graph_ms, 4),
        _OF_ONE: lambda row: percent(row.percent_of_one_gpu_graph),
        "MiB per call": lambda row: "" if row.latency_ms is None else digits(row.peak_extra_mib),
        _KEPT: _kept,
    }


def _kept(row: ReportRow) -> str:
    """A dash where a call's memory is known and this is not, as in records of before."""
    if row.latency_ms is None or row.peak_extra_mib is None:
        return ""
    return digits(row.kept_mib) or "-"


def _interval(row: ReportRow, notes: Notes) -> str:
    """The larger side of the median's interval, as a share of the median: 0.3 %.

    With what speaks against it: 0.3 % [1].
    """
    if row.latency_ms is None:
        return ""
    if row.latency_ms_lo is None or row.latency_ms_hi is None:
        return f"{notes.cite(_FEW)} {notes.cite(row.suspicion)}".strip()
    side = max(row.latency_ms - row.latency_ms_lo, row.latency_ms_hi - row.latency_ms)
    return f"{100 * side / row.latency_ms:.1f} % {notes.cite(row.suspicion)}".strip()


def instead(row: ReportRow, notes: Notes) -> str:
    """What stands where a speed would: oom [1]."""
    if row.status is not Status.OK:
        return f"{row.status.value} {notes.cite(row.reason)}"
    return "interpreted" if row.interpreted else "not timed"


def _fastest_first(row: ReportRow) -> tuple[bool, float, str]:
    """Rows without a figure last, in the order of their status."""
    return row.latency_ms is None, row.latency_ms or 0.0, row.status.value
