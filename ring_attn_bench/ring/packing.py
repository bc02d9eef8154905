"""Keys and values in one buffer: by tokens, or by heads for transports that copy rectangles.

By tokens (N, width) any run of tokens is one contiguous message. By heads (B * G, N, D + E) so is a
head, and any run of tokens of some heads is a rectangle: early heads can go before late ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.plan import Plan
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.tensors import Keys


@dataclass(frozen=True, slots=True)
class Packing:
    """A token's k (B, G, D) and v (B, G, E), one after the other, in a row of `width` elements.

    By heads, a token of a head has its k (D) and v (E) one after the other.
    """

    batch: int
    heads: int
    head_dim: int
    head_dim_v: int

    @classmethod
    def of(cls, keys: Keys) -> Packing:
        """The packing of these keys."""
        return cls(keys.k.shape[0], keys.k.shape[2], keys.k.shape[3], keys.v.shape[3])

    @property
    def width(self) -> int:
        """Elements of one token."""
        return self.batch * self.heads * (self.head_dim + self.head_dim_v)

    def pack_for(self, plan: Plan, keys: Keys, transport: Transport) -> Tensor:
        """A buffer (N, width) that holds the keys, or no tokens where the plan sends nobody any."""
        sends, k = any(step.sends for step in plan.steps), keys.k
        reserve = getattr(transport, "reserve", None)
        if reserve is not None:  # on all ranks alike, whether they send or not
            reserve(k.shape[1], self.width, k.dtype, k.device)
        tokens = k.shape[1] if sends else 0
        buffer = transport.outgoing(tokens, self.width, k.dtype, k.device)
        if getattr(transport, "heads_first", False):
            buffer = buffer.view(self.batch * self.heads, tokens, self.head_dim + self.head_dim_v)
        if sends:
            copy_keys(keys, self.views(buffer))
        return buffer

    def views(self, buffer: Tensor) -> Keys:
        """The keys that a buffer (N, width), or (B * G, N, D + E), holds, as views."""
        batch, heads, k, v = self.batch, self.heads, self.head_dim, self.head_dim_v
        tokens, start = buffer.shape[-2], buffer.storage_offset()
        if buffer.ndim == 3:
            unit = k + v
            strides, split = (heads * tokens * unit, unit, tokens * unit), k
        else:
            strides, split = (heads * k, self.width, k), batch * heads * k
        of_v = strides if buffer.ndim == 3 else (heads * v, self.width, v)
        return Keys(  # one call each: on the way to a short kernel the host's time is what counts
            buffer.as_strided((batch, tokens, heads, k), (*strides, 1), start),
            buffer.as_strided((batch, tokens, heads, v), (*of_v, 1), start + split),
        )


def copy_keys(keys: Keys, into: Keys) -> None:
    """Copies k and v; on a GPU in one launch."""
    if keys.k.is_cuda and keys.k.dtype is keys.v.dtype:
        from ring_attn_bench.ring import packing_triton

        packing_triton.copy_keys(keys, into)
        return
    for view, tensor in zip(into, keys, strict=True):
        view.copy_(tensor)


def sum_keys(keys: Keys, part: Keys | None, first: int, into: Keys) -> None:
    """keys and a part of them, whose token 0 is their token `first`; on a GPU in one launch."""
    if keys.k.is_cuda and keys.k.dtype is torch.float32:
        from ring_attn_bench.ring import packing_triton

        if part is None:
            packing_triton.copy_keys(keys, into)
        else:
            packing_triton.sum_keys(keys, part, first, into)
        return
    if part is not None:
        for total, share in zip(keys, part, strict=True):
            total[:, first : first + share.shape[1]].add_(share)
    for view, tensor in zip(into, keys, strict=True):
        view.copy_(tensor)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32
