"""Tensors that hold q, k and v, or k and v, in a dim of their own, taken apart."""

from __future__ import annotations

from torch import Tensor

from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.errors import InvalidArgument


def unpacked(
    name: str, packed: Tensor, parts: int, *, documents: bool = False
) -> tuple[Tensor, ...]:
    """The parts of (batch, tokens, parts, heads, dim), as views; of documents there is no batch.

    Their gradients are put together by one copy. Raises InvalidArgument.
    """
    dims = f"tokens, {parts}, heads, dim"
    what = f"have shape ({dims})" if documents else f"have shape (batch, {dims})"
    check_dense(name, packed, f"a tensor and {what}")
    if packed.dim() != (4 if documents else 5) or packed.shape[-3] != parts:
        raise InvalidArgument(f"{name} must {what}, got {tuple(packed.shape)}.")
    return packed.unbind(-3)
