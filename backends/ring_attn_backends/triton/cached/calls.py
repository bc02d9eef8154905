"""The contract's call over a cache as kernel calls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from ring_attn_backends.triton.cached.chunks import chunk_launch, is_chunk
from ring_attn_backends.triton.cached.launch import append_launch, attend_launch
from ring_attn_backends.triton.kept import enqueue

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.kept import Known
    from ring_attn_backends.triton.launching import TritonLaunch
    from ring_attn_bench.contract.cache import CachedCall


class Passed(NamedTuple):
    """Results of a call, what of its launches is kept, and the rotated q between them.

    Those launches are for q, k, v, out, lse, rotated, the call's other tensors, the starts.
    """

    out: Tensor
    lse: Tensor
    known: Known | None
    rotated: Tensor | None


def forward(call: CachedCall) -> Passed:
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
        asking = call._replace(q=given[0] if rotated is None else rotated)
        launch = chunk_launch if is_chunk(asking) else attend_launch
        attends = launch(asking, *given[1:])
        if new is None:
            return [attends]
        return [append_launch(given[0], rotated, new, cache), attends]

    read = given[0], cache.k, cache.v
    slopes, starts = call.score.alibi_slopes, call.starts
    more = call.tensors[3:] if slopes is None else call.tensors[3:-1]
    if starts is not None:
        more = *more, starts
    # shapes, numbers and whether v is a part of k were looked at already
    asked: Hashable = call.alike, call.wide
    if call.alike is None:
        told = cache.lengths, cache.table, cache.rows, cache.skipped, starts, call.sink
        absent = tuple(x is None for x in told)
        how = None if new is None else (new.interleaved, new.one_place)
        asked = (
            *("cached", call.mask, call.longest, call.splits, call.wide, cache.dealt),
            *(absent, how, turned, cache.latent),
        )
    written = given[1:] if rotated is None else (*given[1:], rotated)
    known = enqueue(
        asked, (*read, *written), read, more, call.score, launches, alike=call.alike is not None
    )
    return Passed(out, lse, known, rotated)
