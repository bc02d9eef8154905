"""How fast over a cache: what is read of K and V in a second, case by case, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import Naming, group
from ring_attn_bench.report.over_cache import Family, kind
from ring_attn_bench.report.tables.speed import instead
from ring_attn_bench.text.digits import digits, percent, tokens
from ring_attn_bench.text.table import Notes, Table

_GRAPH = "ms in a graph"


def cached(rows: Sequence[ReportRow]) -> list[Table]:
    """The table of one family; a contestant without a figure shows its status, and why below."""
    who, notes = Naming.of(rows, ("backend",)), Notes()
    body: list[tuple[str, ...]] = []
    for alike in group(rows, lambda row: row.case).values():
        ordered = sorted(alike, key=lambda row: (time(row) is None, time(row) or 0.0))
        fastest = time(ordered[0])
        for place, row in enumerate(ordered):
            where = _where(row) if place == 0 else ("",) * len(_WHERE)
            body.append((*where, *who.cells(row), *_figures(row, fastest, notes)))
    headers = (*_WHERE, *who.heads, *_COLUMNS)
    caption = Family.of(rows[0]).heading(rows)
    names = len(_WHERE) + len(who.heads)
    return [Table(caption, headers, tuple(body), names, notes.texts, least=_LEAST).filled()]


_WHERE = ("batch", "tokens", "queries", "cache")


def _where(row: ReportRow) -> tuple[str, ...]:
    lengths = str(row.batch), tokens(row.seqlen_total), tokens(row.queries or 0)
    return (*lengths, ", ".join(kind(row)))


def time(row: ReportRow) -> float | None:
    """Milliseconds that its kernels take, where that was measured; else those of a call."""
    return row.graph_ms or row.latency_ms


def _figures(row: ReportRow, fastest: float | None, notes: Notes) -> tuple[str, ...]:
    own = time(row)
    if own is None or fastest is None:
        return (instead(row, notes), *("" for _ in list(_COLUMNS)[1:]))
    return (f"{own / fastest:.2f}x", *(cell(row) for cell in list(_COLUMNS.values())[1:]))


def _ms(row: ReportRow) -> str:
    """0.0281, and what the interval of its median leaves."""
    if row.latency_ms is None or row.latency_ms_lo is None or row.latency_ms_hi is None:
        return digits(row.latency_ms, 4)
    side = max(row.latency_ms - row.latency_ms_lo, row.latency_ms_hi - row.latency_ms)
    doubt = " ?" if row.suspicion else ""
    return f"{digits(row.latency_ms, 4)} ± {100 * side / row.latency_ms:.1f} %{doubt}"


def _tflops(row: ReportRow) -> float | None:
    """By the time that TB/s are by; the row's own are by a call's."""
    own = time(row)
    if row.tflops_per_gpu is None or row.latency_ms is None or own is None:
        return None
    return row.tflops_per_gpu * row.latency_ms / own


_COLUMNS: dict[str, Callable[[ReportRow], str]] = {
    "of the fastest": lambda row: "",
    "ms of a call": _ms,
    _GRAPH: lambda row: digits(row.graph_ms, 4),
    "TB/s": lambda row: digits(row.read_tbs),
    "% of reading": lambda row: percent(row.percent_of_read),
    "TFLOP/s": lambda row: digits(_tflops(row)),
    "MiB": lambda row: digits(row.peak_extra_mib),
}
"""By the head of a column, its cell; the first is beside others."""
_LEAST = ("MiB", "TFLOP/s")
