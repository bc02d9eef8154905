"""How right: for each shape and mask, the worst that each contestant did to each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from ring_attn_bench.bench.record import Status
from ring_attn_bench.report.columns import TENSORS, Row
from ring_attn_bench.report.formats import digits, power, times, tokens
from ring_attn_bench.report.groups import Shape, device, group, mask, varying
from ring_attn_bench.report.tables.speed import caption
from ring_attn_bench.report.tables.table import Table


def accuracy(rows: Sequence[Row]) -> list[Table]:
    """The tables; each line shows one record, the one nearest to or furthest beyond its bound."""
    compared = [row for row in rows if row.oracle]
    groups = group(compared, lambda row: (Shape.of(row), row.causal))
    return [_table(found) for found in groups.values()]


def _table(rows: Sequence[Row]) -> Table:
    who = varying(rows)
    several = len({row.seqlen_per_gpu for row in rows}) > 1
    contestants = group(rows, lambda row: tuple(str(getattr(row, name)) for name in who))
    body: list[tuple[str, ...]] = []
    for name, found in contestants.items():
        for place, cells in enumerate(_lines(found, several)):
            body.append((*(name if place == 0 else ("",) * len(name)), *cells))
    oracles = " and ".join(dict.fromkeys(row.oracle or "" for row in rows))
    title = f"Errors against float64 ({oracles}), worst of {len(rows)} records, {mask(rows[0])}"
    headers = (*who, "tensor", "max_abs", "rmse", "x PyTorch", f"x 1 {device(rows)}", "of bound",
               "tokens each", "status")  # fmt: skip
    return Table(f"{title}: {caption(rows)}", headers, tuple(body), len(who) + 1).filled()


def _lines(rows: Sequence[Row], several: bool) -> Iterator[tuple[str, ...]]:
    """The worst record of each tensor; its length is told where there are several."""
    for tensor in TENSORS:
        found = [row for row in rows if tensor in row.direction.tensors]
        if found:
            worst = max(found, key=lambda row: used(row, tensor))
            yield (*_line(worst, tensor), tokens(worst.seqlen_per_gpu) if several else "",
                   worst.status.value if worst.status is not Status.OK else "")  # fmt: skip


def used(row: Row, tensor: str) -> float:
    """The share of its bound that a tensor's error uses; infinite if a value is not finite."""
    error, share = row.errors[tensor], row.ratios[tensor].of_bound
    if error.max_abs is None:
        return inf
    return share or 0.0


def _line(row: Row, tensor: str) -> tuple[str, ...]:
    error, ratio = row.errors[tensor], row.ratios[tensor]
    return (
        tensor,
        "not finite" if error.max_abs is None else power(error.max_abs),
        power(error.rmse),
        times(ratio.vs_pytorch),
        times(ratio.vs_one_gpu),
        digits(ratio.of_bound, 2),
    )
