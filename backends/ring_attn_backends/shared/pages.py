"""Any cache as pages, for kernels that read these alone, or read these alone as they should."""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.contract.cache import Cache, CachedCall


def table_of(cache: Cache, batch: int) -> Tensor:
    """Each entry's pages, int32 (B, L), none of which lies outside of the cache.

    A row is a page as long as its room.
    """
    table = cache.table
    if table is None and cache.rows is not None:
        table = cache.rows[:, None]
    if table is None:
        return torch.arange(batch, dtype=torch.int32, device=cache.k.device)[:, None]
    return table.clamp(0, len(cache.k) - 1)


def lengths_of(call: CachedCall, batch: int) -> Tensor:
    """Tokens of each entry before the append, int32 (B,), behind which that has room."""
    cache = call.cache
    room = cache.capacity - (0 if call.appended is None else call.appended.k.shape[1])
    if cache.lengths is None:
        return torch.full((batch,), room, dtype=torch.int32, device=cache.k.device)
    return cache.lengths.clamp(0, room)


def batch_of(call: CachedCall) -> int:
    """How many entries there are."""
    return len(call.q) if call.starts is None else len(call.starts) - 1


def without_keys(call: CachedCall) -> tuple[Tensor, Tensor] | None:
    """out and lse where there is no query at all, or a cache without a token; else None."""
    q, v = call.q, call.cache.v
    if q.numel() and call.cache.k.numel():
        return None
    batch = () if call.starts is not None else (len(q),)
    shape = (*batch, q.shape[-2], q.shape[-3])
    lse = q.new_full(shape, float("-inf"), dtype=torch.float32)
    return q.new_zeros(*q.shape[:-1], v.shape[-1]), lse
