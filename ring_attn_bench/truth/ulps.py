"""Errors in the units of the dtype that a result is stored in."""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor

_LEAST = -12
_MOST = 52
_PER_OCTAVE = 16
BINS = (_MOST - _LEAST) * _PER_OCTAVE
"""Of a histogram of ulps: each is 4.4 % wider than the one before; the ends take the rest."""


def ulp(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring values of dtype at each true value, in float64."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(truth.double()).exponent - 1
    # below the smallest normal number, and at 0, they lie as close as there
    least = round(log2(info.smallest_normal))
    exponent = torch.where((truth == 0) | (exponent < least), least, exponent)
    return torch.exp2(exponent.double()) * info.eps


def histogram(ulps: Tensor) -> Tensor:
    """How many of these errors fall into each bin, int64; those that are not finite into the last.

    Histograms of parts, or of ranks, can be added up, which quantiles cannot.
    """
    bins = ((torch.log2(ulps) - _LEAST) * _PER_OCTAVE).ceil()
    bins = bins.nan_to_num(nan=BINS - 1, posinf=BINS - 1, neginf=0).clamp(0, BINS - 1)
    return torch.bincount(bins.flatten().long(), minlength=BINS)


def quantile(counts: Tensor, share: float) -> float:
    """The upper end of the bin that this share of the errors reaches up to; 0 for the first."""
    reached = int((counts.cumsum(0) < share * counts.sum()).sum())
    return float(2.0 ** (_LEAST + reached / _PER_OCTAVE)) if reached else 0.0


def rounded_once(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest that a result in dtype can be to the truth, in float64."""
    return truth.to(dtype).double()
