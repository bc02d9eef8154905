"""A cache in the words of FlagGems' packed function, and what that cannot do.

Line numbers as in `calls`. Of pages its kernel reads tokens one by one, and what lies behind a head
or a length as 0: head dims are not widened, and there may be anything.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ring_attn_backends.flag_gems.calls import FAR, MAX_GRID, check_offsets, mask_of, slopes_of
from ring_attn_backends.shared import pages
from ring_attn_backends.shared.calls import FlashCall
from ring_attn_bench.contract.cache import Cache, CachedCall
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.cached import CachedProblem

_LEAST_DIM = 16
_STEP = 8
_BY_NAME = "`triton`, `flash_attn_2` and `flash_attn_3` do"


def unsupported(problem: CachedProblem) -> str | None:
    """What its packed kernel has no argument for, or asserts against."""
    if problem.appended:
        return f"its attention appends nothing to a cache; {_BY_NAME}"
    if problem.padded:
        return f"it takes no left padding; {_BY_NAME}"
    if problem.splits > 1:
        return f"its programs do not share the keys of a head; those of {_BY_NAME}"
    if problem.dealt is not None:
        return "it counts places itself: it has no cache that is dealt to ranks"
    if not problem.capacity or not problem.queries:
        return "over a cache it needs a query, and room for a token"
    if problem.head_dim % _STEP or problem.head_dim < _LEAST_DIM:
        return (
            f"over a cache its head dim is a multiple of {_STEP}, {_LEAST_DIM} or more: another "
            f"would be copied (got {problem.head_dim})"
        )
    if max(problem.batch, problem.heads_q) > MAX_GRID:
        return f"it has no batch or heads above {MAX_GRID}"
    return None


def forward(package: Any, call: CachedCall) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - it has no types
    """One call of FlagGems, over pages; a row of the cache is one as long as its room."""
    nothing = pages.without_keys(call)
    if nothing is not None:
        return nothing
    _check_layout(call.cache)
    check_offsets(call.q, call.cache.k)
    batch, packed = pages.batch_of(call), call.starts is not None
    q, starts, longest = call.q, call.starts, call.longest
    if starts is None:
        longest = q.shape[1]
        starts = torch.arange(0, (batch + 1) * longest, longest, dtype=torch.int32, device=q.device)
        q = q.flatten(0, 1)
    right = 0 if call.mask.causal else call.mask.window_right
    causal, left, right = mask_of(FlashCall(call.mask.window_left, right, call.score), FAR)
    # one query of each entry, and fewer key heads: it makes rows of a group's heads (A:323)
    groups = call.cache.k.shape[2]
    one = not packed and longest == 1 and groups < q.shape[1]
    regroups = one and (left, right) == (-1, -1) and call.score.alibi_slopes is None
    out, lse = package.flash_attn_varlen_func(
        q, call.cache.k, call.cache.v,
        longest if regroups else max(2, longest), starts,
        FAR + 1, None, pages.lengths_of(call, batch),
        softmax_scale=call.score.softmax_scale, causal=causal, window_size=(left, right),
        softcap=call.score.softcap, alibi_slopes=slopes_of(call.score),
        block_table=pages.table_of(call.cache, batch), return_softmax_lse=True,
    )  # fmt: skip
    if regroups:  # and leaves their lse in an order of its own (A:572)
        lse = lse.reshape(groups, batch, -1).transpose(1, 2).reshape(-1, batch)
    lse = lse.masked_fill(lse == float("inf"), float("-inf"))  # of rows that see nothing (K:1603)
    if packed:
        return out, lse
    return out.unflatten(0, (batch, longest)), lse.unflatten(1, (batch, longest)).transpose(0, 1)


def _check_layout(cache: Cache) -> None:
    """Refuses what it would read elsewhere: it knows the strides of k's tokens and heads alone."""
    k, v = cache.k, cache.v
    in_a_row = len(k) < 2 or k.stride(0) == k.shape[1] * k.stride(1)  # K:1184
    if k.stride() != v.stride() or not in_a_row:
        raise Unsupported(
            "flag_gems",
            "pages, or rows, of its caches lie one behind another, of k as of v (got strides "
            f"{k.stride()} and {v.stride()})",
        )
