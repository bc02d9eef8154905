"""How right: the worst that each backend, or each contestant, did to each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import TENSORS, ReportRow
from ring_attn_bench.report.groups import WHO, Naming, group, holder, mask
from ring_attn_bench.text.digits import digits, plural, power, times, tokens
from ring_attn_bench.text.table import Table

_MOST = 10


def accuracy(rows: Sequence[ReportRow], by: Sequence[str] = ("backend",)) -> list[Table]:
    """The tables of one shape, one for each mask, with a line for each tensor and value of `by`.

    A line shows one record, the one nearest to or furthest beyond its bound, and which one it is.
    """
    compared = [row for row in rows if row.oracle]
    return [_table(alike, by) for alike in group(compared, mask).values()]


def _table(rows: Sequence[ReportRow], by: Sequence[str]) -> Table:
    who = Naming.of(rows, by)
    where = Naming.of(rows, [name for name in WHO if name not in by])
    several = len({row.seqlen_per_gpu for row in rows}) > 1
    body: list[tuple[str, ...]] = []
    for name, of_contestant in group(rows, who.cells).items():
        for place, (tensor, worst) in enumerate(_worst(of_contestant)):
            shown = name if place == 0 else ("",) * len(name)
            body.append((*shown, tensor, *_figures(worst, tensor), *_place(worst, where, several)))
    oracles = " and ".join(dict.fromkeys(row.oracle or "" for row in rows))
    records = plural(len(rows), "record")
    caption = f"errors against float64 ({oracles}), {mask(rows[0])}, the worst of {records}"
    heads = ("max_abs", "rmse", "rmse / PyTorch's", "rmse / no ring", "of bound")
    last = (*where.heads, f"tokens/{holder(rows)}", "status")
    least = (last[-2], *where.heads, heads[3], heads[1], heads[2])
    headers = (*who.heads, "tensor", *heads, *last)
    return Table(caption, headers, tuple(body), len(who.heads) + 1, least=least).filled()


def _worst(rows: Sequence[ReportRow]) -> Iterator[tuple[str, ReportRow]]:
    """For each tensor the record that uses most of its bound."""
    for tensor in TENSORS:
        with_tensor = [row for row in rows if tensor in row.direction.tensors]
        if with_tensor:
            yield tensor, max(with_tensor, key=lambda row: _used(row, tensor))


def _used(row: ReportRow, tensor: str) -> float:
    """The share of its bound that a tensor's error uses; infinite if a value is not finite."""
    if tensor not in row.judged:
        return -1.0
    if row.errors[tensor].max_abs is None:
        return inf
    return row.ratios[tensor].of_bound or 0.0


def _figures(row: ReportRow, tensor: str) -> tuple[str, ...]:
    error, ratio = row.errors[tensor], row.ratios[tensor]
    if tensor not in row.judged:
        return "not given", "", "", "", ""
    return (
        "not finite" if error.max_abs is None else power(error.max_abs),
        power(error.rmse),
        _beside(ratio.vs_pytorch),
        _beside(ratio.vs_one_gpu),
        digits(ratio.of_bound, 2),
    )


def _beside(ratio: float | None) -> str:
    """Beyond ten the yardstick is next to nothing, and the figure says no more than that."""
    return f"> {_MOST}x" if ratio is not None and ratio > _MOST else times(ratio)


def _place(row: ReportRow, where: Naming, several: bool) -> tuple[str, ...]:
    """Which record it is; its length where there are several."""
    status = "" if row.status is Status.OK else row.status.value
    return (*where.cells(row), tokens(row.seqlen_per_gpu) if several else "", status)
