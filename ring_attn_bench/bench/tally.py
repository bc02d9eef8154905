"""Differences of tensors added up, piece by piece and over ranks: a tally keeps no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

import torch
from torch import Tensor

from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.records.exactness import Precision
from ring_attn_bench.truth import ulps
from ring_attn_bench.truth.tolerance import Deviation

PIECE = 2**24
"""Values that are compared at once: 128 MiB in float64, and a dozen of these live at a time."""

ByHead = list[list[float]]
"""By batch entry and head, a root mean square."""


@dataclass(frozen=True)
class Over:
    """Differences over all ranks: of a whole result, and of each of its heads."""

    whole: Deviation
    by_head: ByHead
    precision: Precision | None = None
    """Where that was asked for, and all is finite."""


class Tally:
    """Differences added up over ranks: the largest, the sum of squares by head, and how many.

    size: root mean square of the truth, where it should say too what they are made of.
    """

    def __init__(self, *, size: float | None = None, piece: int = PIECE) -> None:
        self._largest = 0.0
        self._squares: Tensor | None = None
        self._count = 0
        self._piece = piece
        self._fine = None if size is None else _Fine(size)

    def look_at(self, result: Tensor) -> None:
        """Counts a number that is none, also in rows that are not compared: it is never right."""
        # -inf is the lse of a row that sees nothing; a sum needs no memory as `isfinite` does
        lse = result.dim() == 3
        one = result.amax() if lse else result.sum(dtype=_at_least_float32(result))
        if bool(one.isnan() | one.isposinf()) or (not lse and bool(one.isneginf())):
            self._largest = float("inf")

    def add(self, result: Tensor, exact: Tensor | None) -> None:
        """Counts one rank's result; without a truth, its own size."""
        tokens = 2 if result.dim() == 3 else 1
        step = max(1, self._piece * result.shape[tokens] // max(1, result.numel()))
        for start in range(0, max(1, result.shape[tokens]), step):
            length = min(step, result.shape[tokens] - start)
            truth = None if exact is None else exact.narrow(tokens, start, length)
            self._add(result.narrow(tokens, start, length), truth)

    def _add(self, result: Tensor, exact: Tensor | None) -> None:
        truth = torch.zeros_like(result) if exact is None else exact
        # equal infinities, the lse of a row that sees nothing, are no difference
        difference = torch.where(result == truth, 0.0, result.double() - truth.double())
        difference = difference.nan_to_num(nan=float("inf"), neginf=float("inf"))
        squares = difference.square().sum((1, 3) if difference.dim() == 4 else 2)
        self._squares = squares if self._squares is None else self._squares + squares
        self._count += difference.numel()
        if difference.numel():
            self._largest = max(self._largest, difference.abs().max().item())
        if self._fine is not None:
            self._fine.add(difference, truth, result.dtype)

    def over(self, place: WorkerPlace) -> Over:
        """The difference over all processes; a collective."""
        assert self._squares is not None  # of each rank something is added, if only no rows
        largest = torch.tensor([self._largest], dtype=torch.float64, device=place.device)
        count = torch.tensor([self._count], dtype=torch.float64, device=place.device)
        place.largest(largest)
        squares, total = place.sum(self._squares), max(1.0, place.sum(count).item())
        whole = Deviation(largest.item(), (squares.sum().item() / total) ** 0.5)
        by_head = (squares / (total / squares.numel())).sqrt().tolist()
        precision = None if self._fine is None else self._fine.over(place, whole, total)
        return Over(whole, by_head, precision)


class _Fine:
    """Sums of which bias, gain, floor and ulps are made."""

    def __init__(self, size: float) -> None:
        self._size = size
        self._sums: Tensor | None = None
        self._ulps: Tensor | None = None
        self._largest = 0.0

    def add(self, difference: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
        """difference: of a result in dtype from the truth."""
        truth = torch.where(truth.isfinite(), truth.double(), 0.0)
        floor = ulps.rounded_once(truth, dtype) - truth
        parts = difference, difference * truth, truth.square(), floor.square()
        sums = torch.stack([part.sum() for part in parts])
        # a value near zero has ulps as small: they would say how small values get, and no more
        errors = difference.abs() / ulps.ulp(truth.abs().clamp(min=self._size), dtype)
        counts = ulps.histogram(errors)
        self._sums = sums if self._sums is None else self._sums + sums
        self._ulps = counts if self._ulps is None else self._ulps + counts
        if errors.numel():
            self._largest = max(self._largest, errors.max().item())

    def over(self, place: WorkerPlace, whole: Deviation, total: float) -> Precision | None:
        """Over all processes; a collective. whole, total: the errors there, and how many."""
        assert self._sums is not None  # as in Tally.over
        assert self._ulps is not None
        largest = torch.tensor([self._largest], dtype=torch.float64, device=place.device)
        place.largest(largest)
        place.sum(self._sums)
        place.sum(self._ulps)
        signed, along, sizes, floors = (self._sums / total).tolist()
        if not isfinite(whole.rmse):
            return None
        gain = along / sizes if sizes else 0.0
        return Precision(
            bias=signed,
            bias_error=_standard_error(whole.rmse**2 - signed**2, total),
            gain=gain,
            gain_error=_standard_error(whole.rmse**2 / sizes - gain**2, total) if sizes else 0.0,
            floor_rmse=sqrt(floors),
            ulps_max=largest.item(),
            ulps_p99=ulps.quantile(self._ulps, 0.99),
        )


def _standard_error(variance: float, count: float) -> float:
    return sqrt(max(0.0, variance) / count)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
