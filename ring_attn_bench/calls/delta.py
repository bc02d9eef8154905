"""The row sums of dout * out, which the backward of every block of those rows needs."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_ROWS = 2048
"""Rows at a time: a float32 copy of so many rows of 32 heads of 128 is 32 MiB."""


def delta(dout: Tensor, out: Tensor, wide: torch.dtype) -> Tensor:
    """delta (B, H, M), contiguous, in the dtype `wide`, of dout and out (B, M, H, E).

    Of packed documents (T, H, E), delta is (H, T).
    One fused kernel on a GPU, torch on a CPU and in float64.
    """
    if out.dim() == 3:
        return delta(dout[None], out[None], wide)[0]
    if out.is_cuda and wide is torch.float32 and dout.stride(-1) == out.stride(-1) == 1:
        summed: Tensor = _fused().delta(dout, out)
        return summed
    batch, rows, heads, _ = out.shape
    result = out.new_empty(batch, heads, rows, dtype=wide)
    for start in range(0, rows, _ROWS):
        part = slice(start, start + _ROWS)
        product = dout[:, part].to(wide) * out[:, part]
        result[:, :, part] = product.sum(-1).transpose(1, 2)
    return result


@cache
def _fused() -> ModuleType:
    from ring_attn_bench.calls import delta_triton

    return delta_triton
