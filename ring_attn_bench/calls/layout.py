"""Tensors laid out as kernels read them, where that is a matter of strides that mean nothing."""

from __future__ import annotations

from torch import Tensor


def with_unit_stride(x: Tensor) -> Tensor:
    """x with a contiguous last dim, if that has one element or x has none at all.

    Its stride means nothing then, `contiguous` leaves it as it is, and a kernel asks for 1.
    """
    if not isinstance(x, Tensor) or not x.dim() or x.stride(-1) == 1:
        return x
    if not x.numel():
        return x.reshape(-1).view(x.shape)
    return x.squeeze(-1).unsqueeze(-1) if x.shape[-1] == 1 else x


def in_a_row(x: Tensor) -> Tensor:
    """x, or a contiguous copy: kernels read slopes and documents' starts one after another."""
    return x.contiguous() if isinstance(x, Tensor) and not x.is_contiguous() else x
