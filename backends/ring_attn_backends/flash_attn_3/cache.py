"""A cache in the words of FlashAttention-3's `flash_attn_with_kvcache`, and what that cannot do.

Line numbers are those of 0251105a of 2026-08, hopper/; v2.7.4 and v2.8.3 have the same text.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ring_attn_backends.shared import pages
from ring_attn_backends.shared.padding import check_readable, fitted
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.plan.cached import CachedProblem


def unsupported(problem: CachedProblem) -> str | None:
    """What no build computes right, besides what it cannot compute without a cache either."""
    if problem.head_dim != problem.head_dim_v or problem.head_dim % 8:
        return (
            "over a cache it is asked for one head dim, a multiple of 8: others would be copied "
            f"(got {problem.head_dim} and {problem.head_dim_v} of v)"
        )
    if problem.rotary_dim % 16:
        return f"it rotates a multiple of 16 columns (got {problem.rotary_dim})"
    if not problem.capacity or not problem.queries:
        return "over a cache it needs a query, and room for a token"
    if problem.appended and problem.queries > problem.capacity:
        return "it appends for no more queries than the cache has room for tokens"
    if problem.rotary_dim and problem.queries > 1 and _is_unlimited(problem):
        return "it takes a window that hides nothing for none, and rotates all queries alike"
    if problem.dealt is not None:
        return "it counts places itself: it has no cache that is dealt to ranks"
    return None


def needs(problem: CachedProblem) -> dict[str, bool]:
    """What a build may have been made without, and whether the problem takes it."""
    return {
        "VARLEN": True,
        "PAGEDKV": True,
        "APPENDKV": problem.appended > 0,
        "SPLIT": problem.splits > 1,
    }


def forward(package: Any, call: CachedCall, *, sm_margin: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - untyped
    """One call of the package's function, always over pages and with a padding, be it of 0.

    By TMA it loads whole tiles, and behind an entry's last token multiplies weights of 0 by what is
    there: NaN, in memory that nobody has written (its issues 1745 and 1974). Pages it loads by
    cp.async, which leaves 0 in their place (paged_kv.h:264); but not pages of whole tiles with many
    queries, unless there is a padding (flash_api.cpp:416).
    """
    nothing = pages.without_keys(call)
    if nothing is not None:
        return nothing
    cache, new, width = call.cache, call.appended, call.q.shape[-1]
    check_readable("flash_attn_3", cache)
    batch = pages.batch_of(call)
    lengths = pages.lengths_of(call, batch)
    skipped = lengths.new_zeros(batch)
    if cache.skipped is not None:
        skipped = lengths.minimum(cache.skipped.clamp(min=0))
    options: dict[str, Any] = {}
    if new is not None:
        angles = (None if x is None else x.to(new.k.dtype).contiguous() for x in (new.cos, new.sin))
        options = {
            "k": fitted(new.k, width),
            "v": fitted(new.v, width),
            **dict(zip(("rotary_cos", "rotary_sin"), angles, strict=True)),
            "rotary_interleaved": new.interleaved,
        }
    if call.starts is not None:
        options |= {"cu_seqlens_q": call.starts, "max_seqlen_q": call.longest}
    sides = (call.mask.window_left, call.mask.window_right)
    out, lse, *_ = package.flash_attn_with_kvcache(
        fitted(call.q, width), cache.k, cache.v,
        cache_seqlens=lengths,
        cache_leftpad=skipped,
        page_table=pages.table_of(cache, batch),
        softmax_scale=call.score.softmax_scale,
        causal=call.mask.causal,
        window_size=tuple(-1 if side is None else side for side in sides),
        softcap=call.score.softcap,
        num_splits=call.splits,
        sm_margin=sm_margin,
        return_softmax_lse=True,
        **options,
    )  # fmt: skip
    return out, lse.masked_fill(lse == float("inf"), float("-inf"))


def _is_unlimited(problem: CachedProblem) -> bool:
    """Whether there is a window with sides that it drops (flash_api.cpp:796), and no mask then."""
    mask = problem.mask
    left = mask.window_left is None or mask.window_left >= problem.capacity - 1
    right = mask.window_right is None or mask.window_right >= problem.queries - 1
    return mask.has_window and not mask.causal and left and right
