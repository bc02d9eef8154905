"""Throughput of every contestant over the lengths, for a first look at a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.bench.record import Status
from ring_attn_bench.report.columns import Row
from ring_attn_bench.report.formats import digits, tokens
from ring_attn_bench.report.groups import Shape, device, group, mask, varying
from ring_attn_bench.report.tables.speed import caption
from ring_attn_bench.report.tables.table import Table

_LENGTHS_PER_TABLE = 7


def overview(rows: Sequence[Row]) -> list[Table]:
    """One table for each shape, mask and direction that was measured at several lengths."""
    groups = group(rows, lambda row: (Shape.of(row), row.causal, row.direction))
    return [table for found in groups.values() for table in _tables(found)]


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    lengths = sorted({row.seqlen_per_gpu for row in rows})
    if len(lengths) < 2 or all(row.latency_ms is None for row in rows):
        return
    for start in range(0, len(lengths), _LENGTHS_PER_TABLE):
        yield _table(rows, lengths[start : start + _LENGTHS_PER_TABLE])


def _table(rows: Sequence[Row], lengths: Sequence[int]) -> Table:
    who = varying(rows)
    contestants = group(rows, lambda row: tuple(str(getattr(row, name)) for name in who))
    body = [
        (_speeds(found, lengths), (*name, *_cells(found, lengths)))
        for name, found in contestants.items()
    ]
    body.sort(key=lambda pair: pair[0], reverse=True)
    first = rows[0]
    title = f"TFLOP/s/{device(rows)} by tokens each, {first.direction.value}, {mask(first)}"
    headers = (*who, *map(tokens, lengths))
    return Table(f"{title}: {caption(rows)}", headers, tuple(cells for _, cells in body), len(who))


def _speeds(rows: Sequence[Row], lengths: Sequence[int]) -> tuple[float, ...]:
    """Of the longest length first, to sort by."""
    found = {row.seqlen_per_gpu: row.tflops_per_gpu or 0.0 for row in rows}
    return tuple(found.get(length, 0.0) for length in reversed(lengths))


def _cells(rows: Sequence[Row], lengths: Sequence[int]) -> tuple[str, ...]:
    found = {row.seqlen_per_gpu: _cell(row) for row in rows}
    return tuple(found.get(length, "") for length in lengths)


def _cell(row: Row) -> str:
    """The figure, or in a short word why there is none."""
    if row.status is Status.UNSUPPORTED:
        return "unsup."
    return row.status.value if row.tflops_per_gpu is None else digits(row.tflops_per_gpu)
