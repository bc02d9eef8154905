"""A cache in the words of flash-attn-4's forward function, and what that cannot do.

Line numbers are those of 4.0.0b36, flash_attn/cute.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ring_attn_backends.shared import pages
from ring_attn_backends.shared.padding import check_readable, fitted
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.plan.cached import CachedProblem

_HOPPER = 9
_STEP = 64
"""Of a head dim: what cp.async loads of a row of a page at once (paged_kv.py:69). Of 80, of which
it loads 16, an H200 had numbers that were out by 0.03, where 64, 128 and 256 were right
(`ring-attn-bench probe --backend flash_attn_4 --feature cache`)."""
_LARGEST = {(192, 128)}
"""Head dims above 128 whose pages the package has tests of on Blackwell; Hopper has all."""
_BY_NAME = "`triton`, `flash_attn_2` and `flash_attn_3` do"


def unsupported(problem: CachedProblem, architecture: int) -> str | None:
    """What it has no argument for, or computes right of contents alone that nobody can promise."""
    if problem.appended:
        return f"it appends nothing to a cache; {_BY_NAME}"
    if problem.padded:
        return f"it takes no left padding; {_BY_NAME}"
    if problem.dealt is not None:
        return "it counts places itself: it has no cache that is dealt to ranks"
    if not problem.capacity or not problem.queries:
        return "over a cache it needs a query, and room for a token"
    if problem.splits > 1 and architecture == _HOPPER:
        return "on sm_90 it has no programs that share the keys of a head (interface.py:1631)"
    dims = problem.head_dim, problem.head_dim_v
    if problem.splits > 1 and dims[0] != dims[1]:
        return f"it chooses itself how many programs share keys of two head dims (got {dims})"
    if any(dim % _STEP for dim in dims):
        return f"over a cache its head dims are multiples of {_STEP} (got {dims})"
    if architecture != _HOPPER and max(dims) > 128 and dims not in _LARGEST:
        return f"over a cache it is used with head dims of at most 128 on Blackwell (got {dims})"
    page = problem.capacity if problem.page_size is None else problem.page_size
    if page in _tiles(*dims, architecture):
        return (
            f"pages, or rows, of {page} tokens are its tiles, loaded whole by TMA: NaN behind an "
            "entry's last token would reach the result; other sizes are loaded token by token"
        )
    return None


def forward(package: Any, call: CachedCall, architecture: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - untyped
    """One call of the package's function, always over pages.

    Rows it loads by TMA, in whole tiles, and behind an entry's last token multiplies weights of 0
    by what is there (its issue 2374). Pages that are no tile it loads by cp.async, which leaves 0.
    """
    nothing = pages.without_keys(call)
    if nothing is not None:
        return nothing
    cache = call.cache
    check_readable("flash_attn_4", cache)
    batch = pages.batch_of(call)
    options: dict[str, Any] = {}
    if call.starts is not None:
        options = {"cu_seqlens_q": call.starts, "max_seqlen_q": call.longest}
    # 0 lets it choose; packed queries are many, and would take a launch more (interface.py:1265)
    alone = architecture == _HOPPER or call.starts is not None
    out, lse, *_ = package._flash_attn_fwd(
        fitted(call.q, call.q.shape[-1]), cache.k, cache.v,
        seqused_k=pages.lengths_of(call, batch),
        page_table=pages.table_of(cache, batch),
        max_seqlen_k=cache.capacity,
        softmax_scale=call.score.softmax_scale,
        softcap=call.score.softcap,
        causal=call.mask.causal,
        window_size_left=call.mask.window_left,
        window_size_right=call.mask.window_right,
        num_splits=1 if alone else call.splits,
        return_lse=True,
        **options,
    )  # fmt: skip
    return out, lse


def _tiles(dim: int, dim_v: int, architecture: int) -> frozenset[int]:
    """Keys that a tile may have, by all masks (interface.py:151 and :429)."""
    if architecture != _HOPPER:
        return frozenset({128} if dim == dim_v else {64, 128})
    if dim <= 128:
        return frozenset({128, 144})
    return frozenset({96, 112, 128} if dim <= 192 else {64, 80})
