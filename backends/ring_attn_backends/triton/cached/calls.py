"""The contract's call over a cache as kernel calls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from ring_attn_backends.triton.cached.launch import append_launch, attend_launch
from ring_attn_backends.triton.kept import enqueue

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.launching import TritonLaunch
    from ring_attn_bench.contract.cache import CachedCall


def forward(call: CachedCall) -> tuple[Tensor, Tensor]:
    """The contract's `cached_forward`."""
    q, cache, new = call.q, call.cache, call.appended
    width = cache.v.shape[-1]
    out = q.new_empty(*q.shape[:-1], width, dtype=torch.float32 if call.wide else q.dtype)
    if call.starts is None:
        lse = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
        given = q, out, lse
    else:
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
        given = q[None], out[None], lse[None]
    turned = new is not None and new.cos is not None
    rotated = torch.empty(given[0].shape, dtype=q.dtype, device=q.device) if turned else None

    def launches() -> Sequence[TritonLaunch]:
        turned_or_not = given[0] if rotated is None else rotated
        attends = attend_launch(call._replace(q=turned_or_not), *given[1:])
        if new is None:
            return [attends]
        return [append_launch(given[0], rotated, new, cache), attends]

    read = [*given[:1], cache.k, cache.v]
    told = cache.lengths, cache.table, cache.rows, cache.skipped, call.starts, call.sink
    more = [x for x in (rotated, *told) if x is not None]
    if new is not None:
        more += [x for x in new[:4] if x is not None]
    asked: Hashable = call.alike, call.wide  # shapes and numbers were looked at already
    if call.alike is None:
        absent = tuple(x is None for x in told)
        how = None if new is None else (new.interleaved, new.one_place)
        asked = (
            *("cached", call.mask, call.longest, call.splits, call.wide, cache.dealt),
            *(absent, how, turned),
        )
    enqueue(
        asked, (*read, *given[1:]), tuple(read), tuple(more), call.score, launches,
        alike=call.alike is not None,
    )  # fmt: skip
    return out, lse
