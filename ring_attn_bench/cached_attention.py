"""Attention over a cache of keys for users: flash-attn's call, on any backend that has one.

The arguments are flash-attn's, and `backend` and `sink` as in `attention`. Forward only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.cached.call import attend_cached
from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.on_ring import attend_dealt
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import flag
from ring_attn_bench.calls.sinks import under_one_name
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring.groups import check_group

if TYPE_CHECKING:
    from typing import Unpack

    from ring_attn_bench.signatures import LocalCacheArguments, RingCacheArguments


@overload
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    return_softmax_lse: Literal[True],
    **arguments: Unpack[LocalCacheArguments],
) -> tuple[Tensor, Tensor]: ...
@overload
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_softmax_lse: Literal[False] = False,
    **arguments: Unpack[LocalCacheArguments],
) -> Tensor: ...
def flash_attn_with_kvcache(  # type: ignore[misc]  # the last overload has more positions
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of a few queries over all keys that a cache holds, new ones put into it first.

    q (batch, queries, heads_q, head_dim). k_cache (batch, room, heads_kv, head_dim), v_cache
    (batch, room, heads_kv, head_dim of v); with block_table (pages, page size, heads_kv, ...): any
    page size. The last query stands at the last key: causal and window_size count from there.

    k, v: (batch, new tokens, heads_kv, ...), written into the cache behind cache_seqlens tokens,
        and attended over.
    rotary_cos, rotary_sin: (positions, rotary dim / 2), q's dtype or float32; rotate k, and q, by
        the place where they stand (q's all by cache_seqlens if there is neither causal nor a
        window). rotary_interleaved: columns 2i and 2i + 1 are a pair; else i and i + rotary dim/2.
    cache_seqlens: int32 (batch,), or one integer: tokens that the cache holds; default, all.
    cache_batch_idx: int32 (batch,): the row of the cache that is each entry's.
    cache_leftpad: int32 (batch,): tokens at the beginning that count as not there.
    block_table: int32 (batch, pages of an entry), the pages of each entry in their order.
    num_splits: how many programs share the keys of a head; 0 takes what is fast.
    s_aux, learnable_sink: other names of sink, as in `flash_attn_func`.

    Returns out (batch, queries, heads_q, head_dim of v) in q's dtype, with return_softmax_lse
    (out, lse): float32 (batch, heads_q, queries), natural log. A query that sees no key has out 0
    and lse -inf. The result does not depend on how much room a cache has. On a GPU lengths and
    indices are data, which nothing waits for: a length counts as 0 to the room, new tokens that
    have no room are left out, and what a row or page that is none would hold is not there. On a CPU
    they are refused. A call can be captured in a CUDA graph, and replayed with other lengths.

    Raises InvalidArgument, also for what requires a gradient; UnknownName, Unsupported (its text is
    the backend's reason) or BackendUnavailable.
    """
    wants_lse = flag("return_softmax_lse", return_softmax_lse)
    sink = under_one_name(sink, s_aux, learnable_sink)
    options = Options(  # by place, which takes less time than by name
        backend, 0.0, None, softmax_scale, causal, window_size, softcap, alibi_slopes, False, sink
    )
    given = CacheGiven(
        q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, cache_batch_idx,
        cache_leftpad, block_table, rotary_interleaved, num_splits,
    )  # fmt: skip
    lse: Tensor | None
    if is_compiling():
        from ring_attn_bench.ops import cache  # a program that traces nothing does without

        out, lse = cache.attention(given, options)
    else:
        out, lse = attend_cached(given, options, wants_lse=wants_lse)
    return out if lse is None or not wants_lse else (out, lse)


@overload
def ring_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    return_softmax_lse: Literal[True],
    **arguments: Unpack[RingCacheArguments],
) -> tuple[Tensor, Tensor]: ...
@overload
def ring_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_softmax_lse: Literal[False] = False,
    **arguments: Unpack[RingCacheArguments],
) -> Tensor: ...
def ring_attn_with_kvcache(  # type: ignore[misc]  # as above
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    block: int = 64,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    backend: str = "auto",
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`flash_attn_with_kvcache` over a cache whose tokens are dealt to the ranks of a group.

    Every rank makes the same call: q, k, v and all numbers are alike on all of them, and so are the
    results. The cache is the rank's own: tokens go to ranks by blocks of `block` in turn, so that
    token t of a rank's row stands at ((t // block) * W + rank) * block + t % block of the whole.
    cache_seqlens and cache_leftpad count the whole sequence, whose room is W times a rank's; that
    must be a multiple of block. What is appended every rank has, and the one that it is dealt to
    keeps: a prompt is put there in one call or in chunks, as a step of decoding is.

    One collective: each rank receives float32 out and lse of the others, 4 (W - 1) (head_dim of v
    + 1) bytes for each query, head and batch entry (`plan.cached.merging_bytes`), however long the
    cache is. In a CUDA graph it is captured as NCCL's.

    group: the ranks, default all. context: a RingContext to use, instead of the one kept for a
    group. Raises as `flash_attn_with_kvcache`, NoProcessGroup, and RingBroken where the others do
    not come; where ranks shake hands all of them raise together.
    """

    def check() -> None:
        if group is not None:
            check_group(group, context)
        flag("return_softmax_lse", return_softmax_lse)

    options = Options(
        backend, softmax_scale=softmax_scale, causal=causal, window_size=window_size,
        softcap=softcap, alibi_slopes=alibi_slopes, sink=sink,
    )  # fmt: skip
    given = CacheGiven(
        q, k_cache, v_cache, k, v, rotary_cos, rotary_sin, cache_seqlens, cache_batch_idx,
        cache_leftpad, block_table, rotary_interleaved, num_splits,
    )  # fmt: skip
    if is_compiling():
        flag("return_softmax_lse", return_softmax_lse)
        from ring_attn_bench.ops import cache

        out, lse = cache.dealt_attention(given, options, block, group, context)
    else:
        out, lse = attend_dealt(given, options, block, context_of(group, context), check=check)
    return (out, lse) if return_softmax_lse else out
