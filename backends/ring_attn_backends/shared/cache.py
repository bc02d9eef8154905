"""A cache in plain torch: new tokens put into it, queries rotated, an entry's keys taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys

if TYPE_CHECKING:
    from ring_attn_bench.contract.cache import Appended, Cache


def lengths_of(cache: Cache, batch: int) -> Tensor:
    """Tokens of each entry before the append, int64 (B,): 0 to the capacity."""
    if cache.lengths is None:
        return torch.full((batch,), cache.capacity, device=cache.k.device)
    return cache.lengths.long().clamp(0, cache.capacity)


def appended(q: Tensor, new: Appended, cache: Cache) -> Tensor:
    """Puts the new tokens into the cache, in place; returns q (B, M, H, D), rotated if asked for.

    What has no place in the cache is left out.
    """
    lengths = lengths_of(cache, len(q))
    places = lengths[:, None] + torch.arange(new.k.shape[1], device=q.device)
    k = rotated(new.k, places, new)
    row, within, exists = _where(cache, places)
    exists &= places < cache.capacity
    if cache.dealt is not None:
        exists &= places // cache.dealt.block % cache.dealt.ranks == cache.dealt.rank
    cache.k[row[exists], within[exists]] = k[exists]
    cache.v[row[exists], within[exists]] = new.v[exists]
    steps = torch.arange(q.shape[1], device=q.device)
    return rotated(q, lengths[:, None] + (steps * 0 if new.one_place else steps), new)


def keys_of(cache: Cache, entry: int) -> tuple[Keys, Tensor, Tensor]:
    """All C tokens of an entry, (1, C, G, .), where they stand, and which of them exist, (C,)."""
    places = torch.arange(cache.own_capacity, device=cache.k.device)
    if cache.dealt is not None:
        block, ranks, rank = cache.dealt.block, cache.dealt.ranks, cache.dealt.rank
        places = (places // block * ranks + rank) * block + places % block
    row, within, exists = (x[0] for x in _where(_only(cache, entry), places[None]))
    return Keys(cache.k[row, within][None], cache.v[row, within][None]), places, exists


def rotated(x: Tensor, places: Tensor, new: Appended) -> Tensor:
    """x (B, N, heads, D) with its leading columns rotated, by its tokens' places (B, N).

    In float32 (float64 of float64). A place beyond the table has the last one's angles.
    """
    if new.cos is None or new.sin is None:
        return x
    wide = torch.promote_types(x.dtype, torch.float32)
    places = places.clamp(max=len(new.cos) - 1)
    cos, sin = (table[places][:, :, None].to(wide) for table in (new.cos, new.sin))
    count = 2 * cos.shape[-1]
    turned = x[..., :count].to(wide)
    first, second = (
        (turned[..., ::2], turned[..., 1::2]) if new.interleaved else turned.chunk(2, dim=-1)
    )
    pairs = first * cos - second * sin, second * cos + first * sin
    turned = torch.stack(pairs, -1).flatten(-2) if new.interleaved else torch.cat(pairs, -1)
    return torch.cat([turned.to(x.dtype), x[..., count:]], dim=-1)


def _where(cache: Cache, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, or pages, of places (B, N), places in those, and whether there is such a row or page.

    A place beyond the capacity is somewhere.
    """
    size, count = cache.k.shape[1], len(cache.k)
    places = places.clamp(max=cache.capacity - 1)
    if cache.dealt is not None:
        block, turn = cache.dealt.block, cache.dealt.block * cache.dealt.ranks
        places = places // turn * block + places % block
    if cache.table is not None:
        row, within = torch.gather(cache.table.long(), 1, places // size), places % size
    elif cache.rows is not None:
        row, within = cache.rows.long()[:, None].expand_as(places), places
    else:
        row, within = torch.arange(len(places), device=places.device)[:, None], places
        row = row.expand_as(places)
    exists = (row >= 0) & (row < count)
    return row.where(exists, 0), within, exists


def _only(cache: Cache, entry: int) -> Cache:
    """What says where an entry is, for a batch of it alone."""
    if cache.table is not None:
        return cache._replace(table=cache.table[entry : entry + 1])
    if cache.rows is not None:
        return cache._replace(rows=cache.rows[entry : entry + 1])
    return cache._replace(rows=torch.tensor([entry], device=cache.k.device))
