"""Tensors laid out as kernels read them, where that is a matter of strides that mean nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.calls.dense import INT32_MAX


def with_unit_stride(x: Tensor) -> Tensor:
    """x with a contiguous last dim, if that has one element or x has none at all; no sign bit.

    Its stride means nothing then, `contiguous` leaves it as it is, and a kernel asks for 1. Nothing
    is copied: x may be no tensor, or one that is too large to be.
    """
    try:
        if x.stride(-1) == 1:
            return x.resolve_neg() if x.is_neg() else x
    except Exception:
        return x  # no tensor, or a sparse one: refused where everything is checked
    if x.layout is not torch.strided:
        return x
    if not x.numel():
        return x.reshape(-1).view(x.shape)
    return x.squeeze(-1).unsqueeze(-1) if x.shape[-1] == 1 else x


def is_expanded(x: Tensor) -> bool:
    """Whether several elements are one in memory, of which only one could be written."""
    return any(size > 1 and not step for size, step in zip(x.shape, x.stride(), strict=True))


def rows_in_a_row(x: Tensor) -> Tensor:
    """A checked x, or a copy: its last dim contiguous, as kernels read it; no sign bit."""
    if x.stride(-1) == 1:
        return x
    x = with_unit_stride(x)
    return (x if x.stride(-1) == 1 else x.contiguous()).resolve_neg()


def in_a_row(x: Tensor) -> Tensor:
    """x, or a contiguous copy: kernels read slopes and documents' starts one after another.

    No sign bit either: kernels read memory.
    """
    if not isinstance(x, Tensor) or x.layout is not torch.strided or x.is_nested:
        return x
    try:
        x = x.resolve_neg() if x.is_neg() else x
        if x.is_contiguous() or x.numel() > INT32_MAX or x.is_quantized:
            return x
    except ValueError:
        return x  # a lazy module's parameter: refused where everything is checked
    return x.contiguous()
