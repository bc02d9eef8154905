"""Queries over a cache: online softmax over key tiles (Dao 2023, FlashAttention-2, algorithm 1).

The keys of a head may be shared by several programs, whose partial results `merge` joins
(Dao et al. 2023, Flash-Decoding).
"""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.cached.entry import (
    existing,
    length_of,
    own_count,
    pages_of_tile,
    place_in_page,
    place_of,
    row_of,
)
from ring_attn_backends.triton.places import document
from ring_attn_backends.triton.scores import allowed, base2_scores, biased
from ring_attn_backends.triton.softmax import finished, soften, with_sink

RUN_TIME = (
    *("group", "M", "A", "capacity", "page", "page_bits", "count", "block", "ranks", "rank"),
    *("low", "high", "entries", "splits", "total_rows"),
)


@triton.jit(do_not_specialize=RUN_TIME)
def attend(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, slopes_ptr,
    lengths_ptr, table_ptr, rows_ptr, skipped_ptr, starts_ptr, sink_ptr,
    q_strides, k_strides, v_strides, out_strides, lse_strides, slopes_strides, table_stride,
    group, M, A, capacity, page, page_bits, count, block, ranks, rank, low, high, entries, splits,
    total_rows, scale, cap,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, PACKED: tl.constexpr, PAGED: tl.constexpr, WHOLE_PAGES: tl.constexpr,
    POWER: tl.constexpr, ALIKE: tl.constexpr, DEALT: tl.constexpr, SHARED: tl.constexpr,
    LATENT: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of BLOCK_M rows, which are a key head's queries, each with its group's heads.

    Grid (B x row tiles x splits, G). entries: B. count: rows, or pages, of the cache.
    WHOLE_PAGES: a key tile never lies in two. POWER: a page has 2^page_bits tokens. ALIKE: a token
    of k and its one of v are as far from the first of each. SHARED: writes
    float32 partials, contiguous: out (splits, total_rows, E) and lse (splits, total_rows), rows
    counted by query, then by head. A share without keys has no out. sink: (H,), of programs that
    share nothing. LATENT: v is the first E columns of k, and is loaded once for both; BLOCK_D is
    then of the D - E others (`latent`).
    """
    entry, key_head = tl.program_id(0) % entries, tl.program_id(1)
    tile, split = tl.program_id(0) // entries // splits, tl.program_id(0) // entries % splits
    first_query = 0
    if PACKED:
        first_query, M = document(starts_ptr, entry)
        if tile * BLOCK_M >= M * group:
            return
    else:
        first_query = entry * M
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    queries = rows // group
    heads = key_head * group + rows % group
    real = rows < M * group

    length = length_of(lengths_ptr, entry, capacity)
    places = length + A - M + queries
    start, stop = 0, tl.minimum(length + A, capacity)
    if skipped_ptr is not None:
        start = tl.maximum(tl.load(skipped_ptr + entry), 0)
    if not PAGED:
        row, exists = row_of(rows_ptr, entry, count)
        stop = tl.where(exists, stop, 0)
    # what the first and the last of the rows see
    first_place = length + A - M + tile * BLOCK_M // group
    last_place = length + A - M + tl.minimum(tile * BLOCK_M + BLOCK_M - 1, M * group - 1) // group
    start = tl.maximum(start, first_place - high)
    stop = tl.maximum(tl.minimum(stop, last_place - low + 1), 0)
    # from places to tokens, of which this rank has those that were dealt to it
    start = own_count(start, block, ranks, rank, DEALT)
    stop = own_count(stop, block, ranks, rank, DEALT)

    # tiles begin at multiples of BLOCK_N: then neither the room behind them nor pages move them
    begin = start // BLOCK_N
    tiles = tl.maximum(tl.cdiv(stop, BLOCK_N) - begin, 0)
    share = tl.cdiv(tiles, splits)
    begin += split * share
    tiles = tl.minimum(tiles - split * share, share)

    in_all = (first_query + queries).to(tl.int64)
    columns, columns_v = tl.arange(0, BLOCK_D)[None, :], tl.arange(0, BLOCK_E)[None, :]
    if PACKED:
        q_ptr += in_all[:, None] * q_strides[1]
    else:
        q_ptr += entry.to(tl.int64) * q_strides[0] + queries.to(tl.int64)[:, None] * q_strides[1]
    if LATENT:
        columns += E
    q_ptr += heads[:, None] * q_strides[2]
    q = tl.load(q_ptr + columns, mask=real[:, None] & (columns < D), other=0.0)
    if LATENT:
        q_of_v = tl.load(q_ptr + columns_v, mask=real[:, None] & (columns_v < E), other=0.0)
    slopes = tl.zeros([BLOCK_M], tl.float32)
    if BIASED:
        at = slopes_ptr + entry * slopes_strides[0] + heads * slopes_strides[1]
        slopes = tl.load(at, mask=real, other=0.0) * 1.4426950408889634  # log2(e)

    k_ptr += key_head.to(tl.int64) * k_strides[2]
    v_ptr += key_head.to(tl.int64) * v_strides[2]
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    # which pages a tile lies in is looked up a tile ahead: the loads of keys wait for nothing then,
    # and are pipelined as those of rows are
    first = begin * BLOCK_N
    if PAGED:
        pages = pages_of_tile(
            table_ptr, table_stride, entry, first, stop, page, page_bits,
            BLOCK_N, WHOLE_PAGES, POWER,
        )  # fmt: skip
    in_tile = tl.arange(0, BLOCK_N)
    for _ in tl.range(0, tiles):
        tokens = first + in_tile
        inside = (tokens >= start) & (tokens < stop)
        if PAGED:
            held, exists = existing(pages, count)
            inside &= exists
            pages = pages_of_tile(
                table_ptr, table_stride, entry, first + BLOCK_N, stop, page, page_bits,
                BLOCK_N, WHOLE_PAGES, POWER,
            )  # fmt: skip
        else:
            held = row
        # in this form for its registers, of which a thread has 116 over rows and 124 over whole
        # pages: with two slots of tiles a multiprocessor has room for four programs
        within = place_in_page(first, page, PAGED, BLOCK_N, WHOLE_PAGES, POWER)
        if PAGED and WHOLE_PAGES:
            within += in_tile
        elif not PAGED:
            within = tokens
        k_at = held * k_strides[0] + within.to(tl.int64) * k_strides[1]
        v_at = k_at if ALIKE else held * v_strides[0] + within.to(tl.int64) * v_strides[1]
        k_at, v_at = k_at[:, None] + columns, v_at[:, None] + columns_v
        k = tl.load(k_ptr + k_at, mask=inside[:, None] & (columns < D), other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        if LATENT:
            v = tl.load(v_ptr + v_at, mask=inside[:, None] & (columns_v < E), other=0.0)
            s = tl.dot(q_of_v, tl.trans(v), s, input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        stands = place_of(tokens, block, ranks, rank, DEALT)
        if BIASED:
            # counted from the first row, so that both are exact
            s = biased(
                s, slopes[:, None], (places - first_place).to(tl.float32)[:, None],
                (stands - first_place).to(tl.float32)[None, :],
            )  # fmt: skip
        visible = allowed(places[:, None], stands[None, :], low, high) & inside[None, :]
        s = tl.where(visible, s, float("-inf"))
        p, fade, total, peak = soften(s, total, peak)
        acc = acc * fade[:, None]
        if not LATENT:
            v = tl.load(v_ptr + v_at, mask=inside[:, None] & (columns_v < E), other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        first += BLOCK_N

    if sink_ptr is not None:
        sink = tl.load(sink_ptr + heads, mask=real, other=0.0).to(tl.float32)
        fade, total, peak = with_sink(sink, total, peak)
        acc = acc * fade[:, None]
    divisor, lse = finished(total, peak)
    acc = acc / divisor[:, None]
    if sink_ptr is not None:
        lse = tl.maximum(lse, sink)
    real_v = real[:, None] & (columns_v < E)
    if SHARED:
        # the rows of all entries and heads, as out would be in a row
        at = in_all * (tl.num_programs(1) * group) + heads + split.to(tl.int64) * total_rows
        tl.store(lse_ptr + at, lse, mask=real)
        tl.store(out_ptr + at[:, None] * E + columns_v, acc, mask=real_v & (tiles > 0))
    else:
        if PACKED:
            out_ptr += in_all[:, None] * out_strides[1]
            lse_ptr += in_all
        else:
            out_ptr += entry.to(tl.int64) * out_strides[0]
            out_ptr += queries.to(tl.int64)[:, None] * out_strides[1]
            lse_ptr += entry.to(tl.int64) * lse_strides[0] + queries
        out_ptr += heads[:, None] * out_strides[2] + columns_v
        tl.store(out_ptr, acc.to(out_ptr.dtype.element_ty), mask=real_v)
        tl.store(lse_ptr + heads * lse_strides[1], lse, mask=real)
