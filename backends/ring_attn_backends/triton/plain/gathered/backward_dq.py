"""The backward kernel for dq over own and landed keys; a tile of them is `backward_dq`'s."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.dropout import head_words
from ring_attn_backends.triton.places import reach
from ring_attn_backends.triton.plain.backward_dq import accumulate
from ring_attn_backends.triton.plain.gathered.visits import (
    RUN_TIME,
    arrival,
    matrix_of,
    row_of,
    unless_lost,
)
from ring_attn_backends.triton.scores import slope_of
from ring_attn_backends.triton.softmax import known
from ring_attn_backends.triton.tiles import load_tile, load_vector, matrix, store_tile, vector


@triton.jit(do_not_specialize=RUN_TIME)
def gathered_dq(
    dout_ptr, q_ptr, k_ptr, v_ptr, landed_k_ptr, landed_v_ptr, lse_ptr, delta_ptr, dq_ptr,
    slopes_ptr, table_ptr, words_ptr,
    dout_strides, q_strides, k_strides, v_strides, landed_k_strides, landed_v_strides, lse_strides,
    delta_strides, dq_strides, slopes_strides,
    heads, streams, group, head_groups, heads_each, step,
    word_0, word_1, threshold, keep_share, scale, cap, gradient_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, WAITS: tl.constexpr,
) -> None:  # fmt: skip
    """dq of BLOCK_M rows of one head; grid and WAITS as in `gathered_forward`."""
    tile, stream = tl.program_id(0) // streams, tl.program_id(0) % streams
    head_0, head_1 = head_words(word_0, word_1, stream, DROPPED)
    head, batch = (stream % heads).to(tl.int64), (stream // heads).to(tl.int64)
    first_row, row_stop, begin, end, row_position, piece = row_of(table_ptr, tile)
    dout_ptr = matrix(dout_ptr, dout_strides, batch, head, 0, False)
    q_ptr = matrix(q_ptr, q_strides, batch, head, 0, False)
    lse_ptr = vector(lse_ptr, lse_strides, batch, head, 0, False)
    delta_ptr = vector(delta_ptr, delta_strides, batch, head, 0, False)

    lse = known(load_vector(lse_ptr, first_row, row_stop, BLOCK_M, CHECK=True))
    delta = load_vector(delta_ptr, first_row, row_stop, BLOCK_M, CHECK=True)
    if DROPPED:
        delta *= keep_share
    slope = slope_of(slopes_ptr, slopes_strides, batch, head) if BIASED else 0.0
    q = load_tile(q_ptr, first_row, q_strides[1], row_stop, D, BLOCK_M, BLOCK_D, CHECK=True)
    dout = load_tile(
        dout_ptr, first_row, dout_strides[1], row_stop, E, BLOCK_M, BLOCK_E, CHECK=True
    )
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
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
        dq = accumulate(
            dq, q, dout, lse, delta, k_at, v_at, k_stride, v_stride, place,
            whole, seen, seen, 0, 0, stop - first, low, high, row_start, key_position, step,
            head_0, head_1, threshold, scale, cap, slope,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=False,
        )  # fmt: skip
        dq = accumulate(
            dq, q, dout, lse, delta, k_at, v_at, k_stride, v_stride, place,
            edges, seen, seen, 0, 0, stop - first, low, high, row_start, key_position, step,
            head_0, head_1, threshold, scale, cap, slope,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=True,
        )  # fmt: skip
    dq *= unless_lost(gradient_scale, words_ptr, WAITS)
    dq_ptr = matrix(dq_ptr, dq_strides, batch, head, 0, False)
    store_tile(dq_ptr, first_row, dq_strides[1], row_stop, dq, D, BLOCK_M, BLOCK_D, ADD=False)
