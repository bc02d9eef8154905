"""Keys and values as one token-major buffer: any run of tokens is one contiguous message."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.plan import Plan
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.tensors import Keys


@dataclass(frozen=True, slots=True)
class Packing:
    """A token's k (B, G, D) and v (B, G, E), one after the other, in a row of `width` elements."""

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
        if sends:
            for view, tensor in zip(self.views(buffer), keys, strict=True):
                view.copy_(tensor)
        return buffer

    def views(self, buffer: Tensor) -> Keys:
        """The keys that a buffer (N, width) holds, as views."""
        split = self.batch * self.heads * self.head_dim
        k, v = buffer[:, :split], buffer[:, split:]
        return Keys(
            k.unflatten(1, (self.batch, self.heads, self.head_dim)).transpose(0, 1),
            v.unflatten(1, (self.batch, self.heads, self.head_dim_v)).transpose(0, 1),
        )


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32
