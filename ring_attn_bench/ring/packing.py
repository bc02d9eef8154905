"""Keys and values in one buffer: by tokens, or by heads for transports that copy rectangles.

By tokens (N, width) any run of tokens is one contiguous message. By heads (B * G, N, D + E) so is a
head, and any run of tokens of some heads is a rectangle: early heads can go before late ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.ring.link import Transport


class PackedKeys(NamedTuple):
    """A rank's packed keys: a buffer, and views of it; None where nobody reads them."""

    buffer: Tensor
    keys: Keys | None


@dataclass(frozen=True, eq=False)
class Packing:
    """A token's k (B, G, D) and v (B, G, E), one after the other, in a row of `width` elements.

    By heads, a token of a head has its k (D) and v (E) one after the other. `of` gives the same
    one for the same sizes, so that what is kept for a packing is found by its identity.
    """

    batch: int
    heads: int
    head_dim: int
    head_dim_v: int

    @classmethod
    def of(cls, keys: Keys) -> Packing:
        """The packing of these keys."""
        batch, _, heads, head_dim = keys.k.shape
        return _packing(batch, heads, head_dim, keys.v.shape[3])

    @cached_property
    def width(self) -> int:
        """Elements of one token."""
        return self.batch * self.heads * (self.head_dim + self.head_dim_v)

    def pack_for(self, plan: Plan, keys: Keys, transport: Transport) -> PackedKeys:
        """The keys in memory of the transport's, which has no tokens if the plan sends nobody any.

        Of a transport that keeps it, and the views, `room`; on all ranks alike, read or not.
        """
        k, sends = keys.k, plan.sends
        room = getattr(transport, "room", None)
        if room is not None:
            packed: PackedKeys = room(self, k.shape[1], sends, k.dtype, k.device)
        else:
            tokens = k.shape[1] if sends else 0
            buffer = transport.outgoing(tokens, self.width, k.dtype, k.device)
            packed = PackedKeys(buffer, self.views(buffer) if sends else None)
        if packed.keys is not None:
            copy_keys(keys, packed.keys)
        return packed

    def views(self, buffer: Tensor) -> Keys:
        """The keys that a buffer (N, width), or (B * G, N, D + E), holds, as views."""
        of_k, of_v, split = _places(self, buffer.shape[-2], buffer.ndim == 3)
        start = buffer.storage_offset()
        # one call each: on the way to a short kernel the host's time is what counts
        return Keys(buffer.as_strided(*of_k, start), buffer.as_strided(*of_v, start + split))


@lru_cache(maxsize=256)
def _packing(*sizes: int) -> Packing:
    return Packing(*sizes)


_Place = tuple[tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=1024)
def _places(packing: Packing, tokens: int, by_heads: bool) -> tuple[_Place, _Place, int]:
    """Shape and strides of k and of v in a buffer, and where v begins."""
    batch, heads, k, v = packing.batch, packing.heads, packing.head_dim, packing.head_dim_v
    if by_heads:
        unit, split = k + v, k
        of_k = of_v = (heads * tokens * unit, unit, tokens * unit, 1)
    else:
        split = batch * heads * k
        of_k, of_v = (heads * k, packing.width, k, 1), (heads * v, packing.width, v, 1)
    return ((batch, tokens, heads, k), of_k), ((batch, tokens, heads, v), of_v), split


def copy_keys(keys: Keys, into: Keys) -> None:
    """Copies k and v; on a GPU in one launch."""
    if keys.k.is_cuda and keys.k.dtype is keys.v.dtype:
        _fused().copy_keys(keys, into)
        return
    for view, tensor in zip(into, keys, strict=True):
        view.copy_(tensor)


def sum_keys(keys: Keys, part: Keys | None, first: int, into: Keys) -> None:
    """keys and a part of them, whose token 0 is their token `first`; on a GPU in one launch.

    Of float64 in float64, of others in float32. keys are lost.
    """
    if keys.k.is_cuda and keys.k.dtype is not torch.float64:
        if part is None:
            _fused().copy_keys(keys, into)
        else:
            _fused().sum_keys(keys, part, first, into)
        return
    if part is not None:
        for total, share in zip(keys, part, strict=True):
            total[:, first : first + share.shape[1]].add_(share)
    for view, tensor in zip(into, keys, strict=True):
        view.copy_(tensor)


@cache
def _fused() -> ModuleType:
    from ring_attn_bench.ring import packing_triton

    return packing_triton


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 inputs, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32
