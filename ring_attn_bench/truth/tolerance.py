"""When a result is right: its error against the float64 oracle, beside that of plain PyTorch.

A result may be out by at most twice what plain PyTorch in the same precision is out by (three
times for gradients, which go through two more roundings), plus a floor of a few units in the last
place, for what a lucky baseline leaves no room for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MULTIPLES = {
    "out": 2.0,
    "lse": 2.0,
    "dq": 3.0,
    "dk": 3.0,
    "dv": 3.0,
    "k_cache": 2.0,
    "v_cache": 2.0,
}
"""By result: the multiple of plain PyTorch's error that is allowed."""

GRADIENTS = ("dq", "dk", "dv")

FLOOR_ULPS = 4.0
"""Without a floor a sound float32 kernel fails one case in ten; with this one, one in 800."""

LSE_SHARE = 1 / 8
"""An lse error d scales a block's weight by 1 + d: an eighth of an ulp of out stays invisible."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest and the root mean square of some values: an error's, or a reference's size."""

    max_abs: float
    rmse: float

    def within(self, bounds: Deviation) -> bool:
        """Whether both are at most the bounds; never, if a value is not finite."""
        return self.max_abs <= bounds.max_abs and self.rmse <= bounds.rmse

    def __str__(self) -> str:
        return f"max {self.max_abs:.3g}, rms {self.rmse:.3g}"


def error(result: Tensor, truth: Tensor) -> Deviation:
    """How far a result is from the truth; infinitely, where one is finite and the other is not."""
    difference = (result.to(torch.float64) - truth.to(torch.float64)).abs()
    # -inf against -inf, the lse of a row that sees nothing, is no difference
    return _deviation(torch.where(result == truth, 0.0, difference))


def worst(deviations: Iterable[Deviation]) -> Deviation:
    """The largest difference and the largest rmse of them all."""
    pairs = [(x.max_abs, x.rmse) for x in deviations]
    return Deviation(*map(max, zip(*pairs, strict=True)))


def size(truth: Tensor) -> Deviation:
    """How large the truth is, infinite values left out."""
    return _deviation(torch.where(truth.isfinite(), truth.to(torch.float64), 0.0).abs())


def baseline_arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The arithmetic that plain PyTorch's error in `dtype` is measured in.

    Float64 cannot be measured against itself: its error is taken from float32's, see `bounds`.
    """
    return torch.float32 if dtype is torch.float64 else dtype


def bounds(
    name: str,
    dtype: torch.dtype,
    baseline: Deviation,
    reference: Deviation,
    uncancelled: float = 0.0,
    lse: float = 0.0,
) -> Deviation:
    """What the error of the result `name` of inputs in `dtype` may be.

    baseline: plain PyTorch's error, in `baseline_arithmetic(dtype)`; rounding errors are
    proportional to the unit in the last place, so float32's are scaled down for float64.
    reference: the size of the truth.
    uncancelled: for dq and dk, the largest value that the gradient would have with delta 0. In
        p * (dp - delta) the two cancel where a key has nearly all of a row's weight, and what is
        left cannot be nearer than float32's rounding of what there was: a handful of ulps of it.
    lse: for gradients where q.k is large, the largest lse of either sign. A backward is handed lse
        rounded to float32 (float64 of float64 inputs), which moves it by up to half an ulp,
        |lse| * eps / 2, and it makes p = exp(s - lse) of it: every p of the row, and with it every
        term of dq, dk and dv, is out by a factor of exp(|lse| * eps / 2), |lse| / 2 ulps. The
        baseline does not show it where few keys have a row's weight: its lse comes from its own
        scores, and their errors cancel. Up to |lse| = 8 the floor has room for it; the rest is
        added, in the ulps of lse's dtype whatever the inputs'.
    """
    ulp = torch.finfo(dtype).eps
    fine = min(ulp, torch.finfo(torch.float32).eps)  # of sums, and of lse in any dtype
    # the truth of float64 inputs is no finer than their results: its own error comes on top
    multiple, ulps = MULTIPLES[name], FLOOR_ULPS
    if dtype is torch.float64:
        multiple, ulps = multiple + 1, 2 * ulps
    scale = multiple * ulp / torch.finfo(baseline_arithmetic(dtype)).eps
    margin = LSE_SHARE * ulp if name == "lse" else 0.0
    handed = fine * max(0.0, lse / 2 - FLOOR_ULPS) if name in GRADIENTS else 0.0
    floor = ulps * (fine if name == "lse" else ulp)
    return Deviation(
        scale * baseline.max_abs
        + (floor + handed) * reference.max_abs
        + (ulps * fine + handed) * uncancelled
        + margin,
        scale * baseline.rmse + (ulps * fine + handed) * reference.rmse + margin,
    )


def _deviation(values: Tensor) -> Deviation:
    if not values.numel():
        return Deviation(0.0, 0.0)
    finite = values.nan_to_num(nan=float("inf"), posinf=float("inf"))
    return Deviation(finite.max().item(), finite.square().mean().sqrt().item())
