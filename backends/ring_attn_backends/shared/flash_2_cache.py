"""A cache in the words of flash-attn 2's `flash_attn_with_kvcache`, and what that cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ring_attn_backends.shared.flash_2_limits import left_out
from ring_attn_backends.shared.padding import check_readable, fitted
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Mask, Score

PAGE = 256
"""Tokens: a page must be a multiple."""
_SOME = 2
"""Queries, and programs for the keys of a head, where a kernel is another one than for one."""


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
    if problem.queries > problem.capacity:
        return "over a cache its CUDA kernel has no more queries than the cache has room for tokens"
    if problem.rotary_dim and problem.queries > 1 and _is_unlimited(problem):
        return "its CUDA kernel takes a window as wide as the cache for none, and rotates q alike"
    if problem.dealt is not None:
        return "its CUDA kernel counts places itself: it has no cache that is dealt to ranks"
    if problem.packed:
        return "it is not asked for packed queries over a cache"
    return None


def build_refusal(function: Callable[..., Any], problem: CachedProblem) -> str | None:
    """What the installed build was made without, asked of it by a call over one page.

    Kernels over a cache are others than those of a call without, and a build may hold one alone.
    Asked once for each dtype, head dim and kind of call: lengths, batch and heads choose no kernel.
    """
    queries = min(problem.queries, _SOME)
    mask = Mask(problem.mask.causal, 1 if problem.mask.has_window else None)
    asked = replace(
        problem, batch=1, queries=queries, capacity=PAGE, heads_q=1, heads_kv=1, mask=mask,
        softcap=1.0 if problem.softcap else 0.0, appended=queries if problem.appended else 0,
        page_size=PAGE if problem.page_size else None, splits=min(problem.splits, _SOME),
    )  # fmt: skip
    return _tried(function, asked)


@cache
def _tried(function: Callable[..., Any], problem: CachedProblem) -> str | None:
    dtype: torch.dtype = getattr(torch, problem.dtype)
    keys = torch.zeros(1, PAGE, 1, problem.head_dim, dtype=dtype, device=problem.device)
    q, zero = keys[:, : problem.queries], torch.zeros(1, dtype=torch.int32, device=keys.device)
    table = zero[:, None] if problem.page_size else None
    rows, skipped = (zero if wanted else None for wanted in (problem.indexed, problem.padded))
    slopes = torch.ones(1, device=q.device) if problem.alibi else None
    held = Cache(keys, keys.clone(), zero + problem.queries, table, rows, skipped)
    new = None
    if problem.appended:
        angles = keys.new_zeros(PAGE, problem.rotary_dim // 2) if problem.rotary_dim else None
        new = Appended(q.clone(), q.clone(), angles, angles)
    score = Score(1.0, problem.softcap, slopes)
    try:
        forward(function, CachedCall(q, held, problem.mask, score, new, splits=problem.splits))
    except RuntimeError as error:
        return left_out(error)
    return None


def forward(function: Any, call: CachedCall) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - untyped
    """The package's function, with numbers that it may read memory by."""
    cache, new, score = call.cache, call.appended, call.score
    appended = 0 if new is None else new.k.shape[1]
    lengths, table, rows, skipped, _ = cache[2:]
    check_readable("flash_attn_2", cache)
    width = call.q.shape[-1]
    options: dict[str, Any] = {}
    if new is not None:
        options = {
            "k": fitted(new.k, width),
            "v": fitted(new.v, width),
            "rotary_cos": _like(new.cos, call.q),
            "rotary_sin": _like(new.sin, call.q),
            "rotary_interleaved": new.interleaved,
        }
    if lengths is not None:
        lengths = lengths.clamp(0, cache.capacity - appended)
    last = len(cache.k) - 1
    out, lse = function(
        fitted(call.q, width), cache.k, cache.v,
        cache_seqlens=lengths,
        cache_batch_idx=None if rows is None else rows.clamp(0, last),
        cache_leftpad=None if skipped is None else skipped.clamp(0, cache.capacity),
        block_table=None if table is None else table.clamp(0, last),
        softmax_scale=score.softmax_scale,
        **_sides(call),
        softcap=score.softcap,
        alibi_slopes=score.alibi_slopes,
        num_splits=call.splits,
        return_softmax_lse=True,
        **options,
    )  # fmt: skip
    return out, lse.masked_fill(lse == float("inf"), float("-inf"))


def _sides(call: CachedCall) -> dict[str, Any]:
    """The mask in its words: causal ALiBi, whose lse lacks a row's share, as the window it is."""
    left, right = (-1 if side is None else side for side in _window(call.mask))
    if call.mask.causal and call.score.alibi_slopes is not None:
        left = left if left >= 0 else call.cache.capacity - 1
        return {"causal": False, "window_size": (left, 0)}
    return {"causal": call.mask.causal, "window_size": (left, right)}


def _window(mask: Mask) -> tuple[int | None, int | None]:
    return mask.window_left, mask.window_right


def _is_unlimited(problem: CachedProblem) -> bool:
    """Whether there is a window, of which no side is narrower than the cache."""
    sides = [side for side in _window(problem.mask) if side is not None]
    wide = all(side >= problem.capacity for side in sides)
    return bool(sides) and wide and not problem.mask.causal


def _like(angles: Tensor | None, q: Tensor) -> Tensor | None:
    return None if angles is None else angles.to(q.dtype)
