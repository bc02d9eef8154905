"""Throughput and efficiency of every contestant over the lengths, for a first look at a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import Naming, device, group, holder, mask, took
from ring_attn_bench.text.digits import digits, tokens
from ring_attn_bench.text.table import Table

_LENGTHS_PER_TABLE = 5


def overview(rows: Sequence[ReportRow]) -> list[Table]:
    """The tables of one shape: for each mask and direction that was measured at several lengths."""
    who, unit = Naming.of(rows), device(rows)
    groups = group(rows, lambda row: (row.causal, row.direction))
    return [table for alike in groups.values() for table in _tables(alike, who, unit)]


def _tables(rows: Sequence[ReportRow], who: Naming, unit: str) -> Iterator[Table]:
    lengths = sorted({row.seqlen_per_gpu for row in rows})
    if len(lengths) < 2 or all(row.latency_ms is None for row in rows):
        return
    what = f"TFLOP/s/{unit} and % of 1 {unit} by tokens per {holder(rows)}"
    caption = f"{rows[0].direction.value}, {mask(rows[0])}, {what}"
    for start in range(0, len(lengths), _LENGTHS_PER_TABLE):
        shown = lengths[start : start + _LENGTHS_PER_TABLE]
        body = _body(rows, who, shown)
        here = [row for row in rows if row.seqlen_per_gpu in shown]
        headers = (*who.heads, *map(tokens, shown))
        yield Table(caption, headers, body, len(who.heads), remarks=took(here, who))


def _body(
    rows: Sequence[ReportRow], who: Naming, lengths: Sequence[int]
) -> tuple[tuple[str, ...], ...]:
    """A line for each contestant, the fastest at the longest length first."""
    contestants = group(rows, who.cells)
    by_length = {
        name: {row.seqlen_per_gpu: row for row in of_contestant}
        for name, of_contestant in contestants.items()
    }
    order = sorted(by_length, key=lambda name: _speeds(by_length[name], lengths), reverse=True)
    return tuple(
        (*name, *(_cell(by_length[name].get(length)) for length in lengths)) for name in order
    )


def _speeds(by_length: dict[int, ReportRow], lengths: Sequence[int]) -> list[float]:
    """Of the longest length first, to sort by."""
    speeds = {length: row.tflops_per_gpu or 0.0 for length, row in by_length.items()}
    return [speeds.get(length, 0.0) for length in reversed(lengths)]


def _cell(row: ReportRow | None) -> str:
    """The figure, or in a short word why there is none."""
    if row is None:
        return ""
    if row.tflops_per_gpu is not None:
        share = row.percent_of_one_gpu
        return digits(row.tflops_per_gpu) + ("" if share is None else f" {share:.0f}%")
    if row.status is Status.OK:
        return "-"
    return "unsup." if row.status is Status.UNSUPPORTED else row.status.value
