"""What errors are made of, beside what a tensor's own dtype allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.report.columns import TENSORS, ReportRow
from ring_attn_bench.report.groups import group, mask
from ring_attn_bench.text.digits import digits, plural, power, times
from ring_attn_bench.text.table import Table

_SURE = 3
"""Standard errors that a bias or gain of nothing is beyond once in 370."""
_REMARK = (
    "Floor: float64 rounded once to the tensor's dtype. Ulps: of that dtype at the true value, or "
    "at the tensor's rms where that is larger. Gain: how much larger than the truth; a bias or "
    f"gain that is not zero, by {_SURE} standard errors, has a mark (!)."
)


def exactness(rows: Sequence[ReportRow]) -> list[Table]:
    """The tables of one shape, one for each mask, with a line for each backend and tensor.

    A line shows the record that is furthest above the floor.
    """
    known = [row for row in rows if any(_size(row, tensor) is not None for tensor in TENSORS)]
    return [_table(alike) for alike in group(known, mask).values()]


def _table(rows: Sequence[ReportRow]) -> Table:
    body = [line for of in group(rows, lambda row: row.backend).values() for line in _lines(of)]
    caption = (
        f"what errors are made of, {mask(rows[0])}, furthest above the floor of "
        f"{plural(len(rows), 'record')}"
    )
    headers = (
        "backend", "tensor", "rmse / floor", "ulps of 99 %", "ulps, largest", "bias", "+-", "gain",
        "+-",
    )  # fmt: skip
    return Table(caption, headers, tuple(body), 2, remarks=(_REMARK,), least=("+-",)).filled()


def _lines(rows: Sequence[ReportRow]) -> Iterator[tuple[str, ...]]:
    name = rows[0].backend
    for tensor in TENSORS:
        known = [(size, row) for row in rows if (size := _size(row, tensor)) is not None]
        if known:
            yield name, tensor, *_figures(max(known, key=lambda pair: pair[0])[1], tensor)
            name = ""


def _figures(row: ReportRow, tensor: str) -> Iterator[str]:
    fine = row.exactness[tensor]
    yield times(fine.over_floor)
    yield digits(fine.ulps_p99, 2)
    yield digits(fine.ulps_max, 2)
    for value, error in ((fine.bias, fine.bias_error), (fine.gain, fine.gain_error)):
        sure = value is not None and error is not None and abs(value) > _SURE * error
        yield f"{power(value)}{' !' if sure else ''}"
        yield power(error)


def _size(row: ReportRow, tensor: str) -> float | None:
    """By which the worst record is chosen; of float64, which has no floor, by ulps."""
    if tensor not in row.direction.tensors:
        return None
    fine = row.exactness[tensor]
    return fine.over_floor if fine.over_floor is not None else fine.ulps_p99
