"""From a call over a cache to kernel calls, ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ring_attn_backends.triton import arguments
from ring_attn_backends.triton.arguments import band_of, padded
from ring_attn_backends.triton.cached import latent
from ring_attn_backends.triton.cached.append import append
from ring_attn_backends.triton.cached.attend import attend
from ring_attn_backends.triton.cached.merge import merge
from ring_attn_backends.triton.cached.table import splits_for, tiling
from ring_attn_backends.triton.launching import TritonLaunch

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.plain.table import Tiling
    from ring_attn_bench.contract.cache import Appended, Cache, CachedCall

TOKENS = 16
"""Of an appending program: a step of decoding has one."""
PARTIALS = 16
"""That a merging program reads at a time: of a row, or of several rows where few programs share
their keys."""


def append_launch(q: Tensor, rotated: Tensor | None, new: Appended, cache: Cache) -> TritonLaunch:
    """Writes the new tokens into the cache and, where it is given, the rotated q (B, M, H, D)."""
    batch, tokens, heads, dim = q.shape
    count, group_heads = new.k.shape[1:3]
    rotary = 0 if new.cos is None else 2 * new.cos.shape[1]
    given = {
        **arguments.of_tensors({"q": q, "k": new.k, "v": new.v}),
        **arguments.of_tensors({"k_cache": cache.k, "v_cache": cache.v}),
        **_angles(q if rotated is None else rotated, new.cos, new.sin),
        **_numbers(cache),
        "M": tokens,
        "A": count,
        "H": heads,
        "G": group_heads,
        "D": dim,
        "E": new.v.shape[-1],
        "BLOCK_D": padded(dim),
        "BLOCK_E": padded(new.v.shape[-1]),
        "BLOCK": TOKENS,
        "ROTARY": rotary,
        "INTERLEAVED": new.interleaved,
        "ONE_PLACE": new.one_place,
    }
    longest = max(tokens, count) if rotary else count
    grid = -(-longest // TOKENS), group_heads + (heads if rotary else 0), batch
    return TritonLaunch(append, grid, _named(append, given), q.device)


def attend_launch(
    call: CachedCall, out: Tensor, lse: Tensor, *, config: Tiling | None = None
) -> TritonLaunch:
    """Writes out and lse; q, out and lse with a batch dim of 1 where queries are packed."""
    q, cache = call.q, call.cache
    batch = q.shape[0] if call.starts is None else call.starts.shape[0] - 1
    queries = q.shape[1] if call.starts is None else call.longest
    heads, key_heads = q.shape[2], cache.k.shape[2]
    rows = queries * (heads // key_heads)
    page = None if cache.table is None else cache.k.shape[1]
    wide = latent.is_wide(q.shape[3])
    config = config or (
        latent.tiling(rows) if wide else tiling(q, cache.v, rows, batch * key_heads, page)
    )
    tiles = -(-rows // config.rows)
    splits = call.splits or splits_for(batch * key_heads * tiles, q)
    total_rows = q.shape[0] * q.shape[1] * heads
    to_out, to_lse = out, lse
    after: tuple[TritonLaunch, ...] = ()
    if splits > 1:
        to_lse = torch.empty(splits, total_rows, dtype=torch.float32, device=q.device)
        to_out = to_lse.new_empty(splits, total_rows, out.shape[-1])
        after = (merge_launch(to_out, to_lse, out, lse, call.sink),)
    low, high = band_of(call.mask)
    given = {
        **arguments.of_tensors({"q": q, "k": cache.k, "v": cache.v}),
        **arguments.pointers({"out": to_out, "lse": to_lse}),
        **arguments.of_score(call.score),
        **arguments.of_shapes(q, cache.k, cache.v),
        **_numbers(cache),
        "PRECISE": arguments.needs_precise_tanh(q.dtype, call.score),
        "starts_ptr": call.starts,
        "skipped_ptr": cache.skipped,
        "sink_ptr": None if after else call.sink,
        "M": queries,
        "A": 0 if call.appended is None else call.appended.k.shape[1],
        "low": low,
        "high": high,
        "entries": batch,
        "splits": splits,
        "total_rows": total_rows,
        "BLOCK_M": config.rows,
        "BLOCK_N": config.keys,
        "PACKED": call.starts is not None,
        "WHOLE_PAGES": cache.table is not None and cache.k.shape[1] % config.keys == 0,
        "ALIKE": cache.table is not None and cache.k.stride()[:2] == cache.v.stride()[:2],
        "POWER": cache.table is not None and cache.k.shape[1].bit_count() == 1,
        "SHARED": splits > 1,
        "LATENT": wide,
    }
    if wide:
        given["BLOCK_D"] = padded(q.shape[3] - out.shape[3])
    # along the first axis there is room for 2^31 programs, along the others for 65535
    grid = batch * tiles * splits, key_heads, 1
    scratch = (to_out, to_lse) if after else ()
    return TritonLaunch(
        attend, grid, _named(attend, given), q.device, config, scratch=scratch, after=after
    )


def merge_launch(
    partial_out: Tensor, partial_lse: Tensor, out: Tensor, lse: Tensor, sink: Tensor | None,
    *, by_head: bool = False,
) -> TritonLaunch:  # fmt: skip
    """Writes out and lse from as many partials of each number: see `merge`."""
    total_rows = out.shape[0] * out.shape[1] * out.shape[2]
    splits = partial_lse.numel() // max(total_rows, 1)  # without queries nothing is launched
    together = min(PARTIALS, 1 << (splits - 1).bit_length())
    rows = PARTIALS // together
    given = {
        "partial_out_ptr": partial_out,
        "partial_lse_ptr": partial_lse,
        **arguments.pointers({"out": out, "lse": lse}),
        "sink_ptr": sink,
        "splits": splits,
        "total_rows": total_rows,
        "H": out.shape[2],
        "M": out.shape[1],
        "E": out.shape[3],
        "BLOCK_E": padded(out.shape[3]),
        "BLOCK_S": together,
        "BLOCK_R": rows,
        "BY_HEAD": by_head,
    }
    return TritonLaunch(merge, (-(-total_rows // rows), 1, 1), _named(merge, given), out.device)


def _numbers(cache: Cache) -> arguments.Arguments:
    """Where entries lie in the cache, and how much of it there is."""
    table, dealt = cache.table, cache.dealt
    block, ranks, rank = (1, 1, 0) if dealt is None else (dealt.block, dealt.ranks, dealt.rank)
    return {
        "lengths_ptr": cache.lengths,
        "table_ptr": table,
        "table_stride": 0 if table is None else table.stride(0),
        "rows_ptr": cache.rows,
        "capacity": cache.capacity,
        "page": cache.k.shape[1],
        "page_bits": cache.k.shape[1].bit_length() - 1,
        "count": cache.k.shape[0],
        "block": block,
        "ranks": ranks,
        "rank": rank,
        "DEALT": dealt is not None,
        "PAGED": table is not None,
    }


def _angles(rotated: Tensor, cos: Tensor | None, sin: Tensor | None) -> arguments.Arguments:
    given = arguments.of_tensors({"rotated": rotated})
    if cos is None or sin is None:
        nothing = {"cos_strides": (0,), "sin_strides": (0,), "angles": 0}
        return given | nothing | {"cos_ptr": None, "sin_ptr": None}
    return given | arguments.pointers({"cos": cos, "sin": sin}) | {"angles": cos.shape[0]}


def _named(kernel: Any, given: arguments.Arguments) -> arguments.Arguments:  # noqa: ANN401
    return {name: given[name] for name in kernel.arg_names}
