"""The backward kernel for dk, dv of own and landed keys; a tile of rows is `backward_dkdv`'s."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.places import reach
from ring_attn_backends.triton.plain.backward_dkdv import accumulate
from ring_attn_backends.triton.plain.gathered.visits import (
    RUN_TIME,
    arrival,
    matrix_of,
    row_of,
    unless_lost,
)
from ring_attn_backends.triton.tiles import load_tile, matrix, store_tile, vector


@triton.jit(do_not_specialize=RUN_TIME)
def gathered_dkdv(
    dout_ptr, q_ptr, k_ptr, v_ptr, landed_k_ptr, landed_v_ptr, lse_ptr, delta_ptr,
    dk_ptr, dv_ptr, landed_dk_ptr, landed_dv_ptr, slopes_ptr, table_ptr, words_ptr,
    dout_strides, q_strides, k_strides, v_strides, landed_k_strides, landed_v_strides, lse_strides,
    delta_strides, dk_strides, dv_strides, landed_dk_strides, landed_dv_strides, slopes_strides,
    heads, streams, group, head_groups, heads_each, step,
    word_0, word_1, threshold, keep_share, scale, cap, gradient_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, WAITS: tl.constexpr,
) -> None:  # fmt: skip
    """dk, dv of BLOCK_N keys of one key head, own ones or landed; grid as in `gathered_forward`.

    WAITS: for the word of the piece that the keys are of; all rows are the rank's own.
    """
    tile, stream = tl.program_id(0) // streams, tl.program_id(0) % streams
    first_head = stream * group
    head, batch = (stream % heads).to(tl.int64), (stream // heads).to(tl.int64)
    first_key, key_stop, begin, end, key_position, piece = row_of(table_ptr, tile)
    dout_ptr = matrix(dout_ptr, dout_strides, batch, head * group, 0, False)
    q_ptr = matrix(q_ptr, q_strides, batch, head * group, 0, False)
    lse_ptr = vector(lse_ptr, lse_strides, batch, head * group, 0, False)
    delta_ptr = vector(delta_ptr, delta_strides, batch, head * group, 0, False)
    if BIASED:
        slopes_ptr += batch * slopes_strides[0] + head * group * slopes_strides[1]

    load_stop = key_stop
    if WAITS and piece != 0:
        there = arrival(words_ptr, piece, stream // heads_each, head_groups) != 0
        load_stop, end = tl.where(there, key_stop, first_key), tl.where(there, end, begin)
    k_at, k_stride = matrix_of(k_ptr, k_strides, landed_k_ptr, landed_k_strides, piece, batch, head)
    v_at, v_stride = matrix_of(v_ptr, v_strides, landed_v_ptr, landed_v_strides, piece, batch, head)
    k = load_tile(k_at, first_key, k_stride, load_stop, D, BLOCK_N, BLOCK_D, CHECK=True)
    v = load_tile(v_at, first_key, v_stride, load_stop, E, BLOCK_N, BLOCK_E, CHECK=True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    for number in tl.range(begin, end):
        first, stop, low, high, row_position, _own = row_of(table_ptr, number)
        # from here on, the visit's first row is at place 0
        place = first_key - first
        key_start = key_position - step * place
        seen, _, whole, edges = reach(
            place, key_stop - 1 - first, low, high, 0, 0, stop - first, BLOCK_M, False
        )
        from_first = first.to(tl.int64)
        dout_at, q_at = dout_ptr + from_first * dout_strides[1], q_ptr + from_first * q_strides[1]
        dk, dv = accumulate(
            dk, dv, k, v, dout_at, q_at, lse_ptr + first, delta_ptr + first, slopes_ptr,
            dout_strides, q_strides, lse_strides, delta_strides, slopes_strides, place,
            group, whole, seen, seen, 0, 0, stop - first, low, high, row_position, key_start, step,
            word_0, word_1, first_head, threshold, keep_share, scale, cap,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=False,
        )  # fmt: skip
        dk, dv = accumulate(
            dk, dv, k, v, dout_at, q_at, lse_ptr + first, delta_ptr + first, slopes_ptr,
            dout_strides, q_strides, lse_strides, delta_strides, slopes_strides, place,
            group, edges, seen, seen, 0, 0, stop - first, low, high, row_position, key_start, step,
            word_0, word_1, first_head, threshold, keep_share, scale, cap,
            D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED,
            CHUNKED=False, EDGE=True,
        )  # fmt: skip
    sound = unless_lost(1.0, words_ptr, WAITS)
    dk *= gradient_scale * sound
    dv *= sound
    if DROPPED:
        dv /= keep_share
    # two stores with names of their own, for own and landed gradients may differ in dtype
    if piece == 0:
        own_dk = matrix(dk_ptr, dk_strides, batch, head, 0, False)
        own_dv = matrix(dv_ptr, dv_strides, batch, head, 0, False)
        store_tile(own_dk, first_key, dk_strides[1], key_stop, dk, D, BLOCK_N, BLOCK_D, ADD=False)
        store_tile(own_dv, first_key, dv_strides[1], key_stop, dv, E, BLOCK_N, BLOCK_E, ADD=False)
    else:
        away_dk = matrix(landed_dk_ptr, landed_dk_strides, batch, head, 0, False)
        away_dv = matrix(landed_dv_ptr, landed_dv_strides, batch, head, 0, False)
        dk_stride, dv_stride = landed_dk_strides[1], landed_dv_strides[1]
        store_tile(away_dk, first_key, dk_stride, key_stop, dk, D, BLOCK_N, BLOCK_D, ADD=False)
        store_tile(away_dv, first_key, dv_stride, key_stop, dv, E, BLOCK_N, BLOCK_E, ADD=False)
