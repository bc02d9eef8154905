"""A cache in the words of flash-attn 2's `flash_attn_with_kvcache`, and what that cannot do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Mask

PAGE = 256
"""Tokens: a page must be a multiple."""


def unsupported(problem: CachedProblem) -> str | None:
    """What no build computes right, besides what it cannot compute without a cache either."""
    if problem.head_dim != problem.head_dim_v or problem.head_dim % 8:
        return (
            "over a cache its CUDA kernel has one head dim, a multiple of 8 (got "
            f"{problem.head_dim} and {problem.head_dim_v} of v)"
        )
    if problem.page_size is not None and problem.page_size % PAGE:
        return f"its CUDA kernel has pages of a multiple of {PAGE} tokens (got {problem.page_size})"
    if problem.page_size is not None and problem.padded:
        return "its CUDA kernel has pages and left padding, but not both at once"
    if problem.rotary_dim % 16:
        return f"its CUDA kernel rotates a multiple of 16 columns (got {problem.rotary_dim})"
    if not problem.capacity or not problem.queries:
        return "over a cache its CUDA kernel needs a query, and room for a token"
    if problem.dealt is not None:
        return "its CUDA kernel counts places itself: it has no cache that is dealt to ranks"
    if problem.packed:
        return "it is not asked for packed queries over a cache"
    return None


def forward(function: Any, call: CachedCall) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - untyped
    """The package's function, with numbers that it may read memory by."""
    cache, new, score = call.cache, call.appended, call.score
    appended = 0 if new is None else new.k.shape[1]
    lengths, table, rows, skipped, _ = cache[2:]
    options: dict[str, Any] = {}
    if new is not None:
        options = {
            "k": new.k,
            "v": new.v,
            "rotary_cos": _like(new.cos, call.q),
            "rotary_sin": _like(new.sin, call.q),
            "rotary_interleaved": new.interleaved,
        }
    if lengths is not None:
        lengths = lengths.clamp(0, cache.capacity - appended)
    last = len(cache.k) - 1
    out, lse = function(
        call.q, cache.k, cache.v,
        cache_seqlens=lengths,
        cache_batch_idx=None if rows is None else rows.clamp(0, last),
        cache_leftpad=None if skipped is None else skipped.clamp(0, cache.capacity),
        block_table=None if table is None else table.clamp(0, last),
        softmax_scale=score.softmax_scale,
        causal=call.mask.causal,
        window_size=_window(call.mask),
        softcap=score.softcap,
        alibi_slopes=score.alibi_slopes,
        num_splits=call.splits,
        return_softmax_lse=True,
        **options,
    )  # fmt: skip
    return out, lse.masked_fill(lse == float("inf"), float("-inf"))


def _window(mask: Mask) -> tuple[int, int]:
    left, right = mask.window_left, mask.window_right
    return -1 if left is None else left, -1 if right is None else right


def _like(angles: Tensor | None, q: Tensor) -> Tensor | None:
    return None if angles is None else angles.to(q.dtype)
