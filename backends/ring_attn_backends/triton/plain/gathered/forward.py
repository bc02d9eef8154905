"""The forward kernel over own and landed keys; what it does with a tile of them is `forward`'s."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.dropout import head_words
from ring_attn_backends.triton.places import reach
from ring_attn_backends.triton.plain.forward import attend
from ring_attn_backends.triton.plain.gathered.visits import (
    RUN_TIME,
    arrival,
    matrix_of,
    row_of,
    unless_lost,
)
from ring_attn_backends.triton.scores import slope_of
from ring_attn_backends.triton.softmax import finished
from ring_attn_backends.triton.tiles import load_tile, matrix, store_tile, vector


@triton.jit(do_not_specialize=RUN_TIME)
def gathered_forward(
    q_ptr, k_ptr, v_ptr, landed_k_ptr, landed_v_ptr, out_ptr, lse_ptr, slopes_ptr,
    table_ptr, words_ptr,
    q_strides, k_strides, v_strides, landed_k_strides, landed_v_strides, out_strides, lse_strides,
    slopes_strides,
    heads, streams, group, head_groups, heads_each, step,
    word_0, word_1, threshold, keep_share, scale, cap,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, WAITS: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of BLOCK_M rows of one head; grid (tiles x streams,), a tile's streams together.

    WAITS: for the words of pieces, which may be on their way.
    """
    tile, stream = tl.program_id(0) // streams, tl.program_id(0) % streams
    head_0, head_1 = head_words(word_0, word_1, stream, DROPPED)
    head, batch = (stream % heads).to(tl.int64), (stream // heads).to(tl.int64)
    first_row, row_stop, begin, end, row_position, piece = row_of(table_ptr, tile)
    q_ptr = matrix(q_ptr, q_strides, batch, head, 0, False)

    q = load_tile(q_ptr, first_row, q_strides[1], row_stop, D, BLOCK_M, BLOCK_D, CHECK=True)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    slope = slope_of(slopes_ptr, slopes_strides, batch, head) if BIASED else 0.0
    key_head = head // group
    for number in tl.range(begin, end):
        first, stop, low, high, key_position, piece = row_of(table_ptr, number)
        # from here on, the visit's first key is at place 0
        place = first_row - first
        row_start = row_position - step * place
        seen, _, whole, edges = reach(
            place, row_stop - 1 - first, -high, -low, 0, 0, stop - first, BLOCK_N, False
        )
        if WAITS and (piece != 0) & (whole + edges > 0):
            there = arrival(words_ptr, piece, stream // group // heads_each, head_groups) != 0
            whole, edges = tl.where(there, whole, 0), tl.where(there, edges, 0)
        k_at, k_stride = matrix_of(
            k_ptr, k_strides, landed_k_ptr, landed_k_strides, piece, batch, key_head
        )
        v_at, v_stride = matrix_of(
            v_ptr, v_strides, landed_v_ptr, landed_v_strides, piece, batch, key_head
        )
        k_at += first.to(tl.int64) * k_stride
        v_at += first.to(tl.int64) * v_stride
        acc, total, peak = attend(
            acc, total, peak, q, k_at, v_at, k_stride, v_stride, place,
            whole, seen, seen, 0, 0, stop - first, low, high, row_start, key_position, step,
            head_0, head_1, threshold, scale, cap, slope,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=False,
        )  # fmt: skip
        acc, total, peak = attend(
            acc, total, peak, q, k_at, v_at, k_stride, v_stride, place,
            edges, seen, seen, 0, 0, stop - first, low, high, row_start, key_position, step,
            head_0, head_1, threshold, scale, cap, slope,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=True,
        )  # fmt: skip

    total, lse = finished(total, peak)
    if DROPPED:
        total *= keep_share
    sound = unless_lost(1.0, words_ptr, WAITS)
    acc /= (total * sound)[:, None]
    lse *= sound
    out_ptr = matrix(out_ptr, out_strides, batch, head, 0, False)
    lse_ptr = vector(lse_ptr, lse_strides, batch, head, 0, False)
    store_tile(out_ptr, first_row, out_strides[1], row_stop, acc, E, BLOCK_M, BLOCK_E, ADD=False)
    rows = first_row + tl.arange(0, BLOCK_M)
    tl.store(lse_ptr + rows, lse, mask=rows < row_stop)
