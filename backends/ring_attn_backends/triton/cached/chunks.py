"""Many queries at a time over rows of a cache, such as a chunk of a prompt: Hopper's forward.

`attend` is for few queries: it has the heads of a group in one tile, and takes pages, but its
products are those of the plain kernels. Here what `extents` finds out about each entry, or a share
of its keys, is read by the kernel that serves whole sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ring_attn_backends.shared.gpus import multiprocessors
from ring_attn_backends.triton.cached.extents import NUMBERS, extents
from ring_attn_backends.triton.cached.launch import merge_launch
from ring_attn_backends.triton.hopper import serves
from ring_attn_backends.triton.hopper.extents import Extent
from ring_attn_backends.triton.hopper.launch import forward_over
from ring_attn_backends.triton.hopper.table import chosen
from ring_attn_backends.triton.launching import TritonLaunch
from ring_attn_backends.triton.lines import FAR
from ring_attn_bench.contract.tensors import Keys, Running
from ring_attn_bench.plan.cached import MOST_SPLITS

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.cache import CachedCall

FEWEST_QUERIES = 64
"""Of an entry: a warpgroup's rows."""
FEWEST_PROGRAMS = 3 / 4
"""Of a GPU's multiprocessors, shares of keys included: fewer programs leave more idle than `attend`
loses, which has several on each."""
BLOCK = 128
"""Keys that are not shared."""


def is_chunk(call: CachedCall) -> bool:
    """Whether Hopper's forward serves the call, and there is enough to do for it."""
    q, cache = call.q, call.cache
    elsewhere = call.starts, cache.table, cache.dealt, call.sink
    if call.wide or call.splits or any(x is not None for x in elsewhere):
        return False
    if q.shape[1] < FEWEST_QUERIES or not serves.serves_cache((q, *cache[:2]), call.score):
        return False
    if cache.k.shape[0] * cache.k.shape[1] >= FAR:
        return False
    return _programs(call) * splits_for(call) >= FEWEST_PROGRAMS * multiprocessors(q)


def splits_for(call: CachedCall) -> int:
    """By how many programs keys are shared: as many as have room in one turn, whatever lengths are.

    As in `table.splits_for`, room that nobody uses must change no bit.
    """
    return max(1, min(MOST_SPLITS, multiprocessors(call.q) // _programs(call)))


def _programs(call: CachedCall) -> int:
    """Without shares."""
    q, cache = call.q, call.cache
    own = chosen("forward", q, Keys(cache.k, cache.v)).own
    return q.shape[0] * q.shape[2] * -(-q.shape[1] // own)


def chunk_launch(call: CachedCall, out: Tensor, lse: Tensor) -> TritonLaunch:
    """Writes out and lse."""
    q, cache = call.q, call.cache
    batch, queries, heads, _ = q.shape
    splits = splits_for(call)
    table = torch.empty(splits * batch, NUMBERS, dtype=torch.int32, device=q.device)
    scratch: tuple[Tensor, ...] = (table,)
    to = Running(out, lse)
    after: tuple[TritonLaunch, ...] = ()
    if splits > 1:
        shares = out.new_empty(splits * batch, *out.shape[1:], dtype=torch.float32)
        of_lse = out.new_empty(splits * batch, heads, queries, dtype=torch.float32)
        scratch, to = (table, shares, of_lse), Running(shares, of_lse)
        after = (merge_launch(shares, of_lse, out, lse, None, by_head=True),)
    count, capacity = cache.k.shape[:2]
    given = {
        "into_ptr": table,
        "lengths_ptr": cache.lengths,
        "rows_ptr": cache.rows,
        "skipped_ptr": cache.skipped,
        "A": 0 if call.appended is None else call.appended.k.shape[1],
        "capacity": capacity,
        "count": count,
        "entries": batch,
        "splits": splits,
        "BLOCK": BLOCK,
    }
    keys, extent = Keys(cache.k, cache.v), Extent.of_cache(call, table)
    attends = forward_over(q, keys, to, extent, call.score)
    return TritonLaunch(
        extents, (len(table), 1, 1), given, q.device, scratch=scratch, after=(attends, *after)
    )
