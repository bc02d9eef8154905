"""The backward kernel for dq: row tiles stay, key tiles pass (Dao 2023, FlashAttention-2)."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.arguments import RUN_TIME
from ring_attn_backends.triton.dropout import column_words, head_words, kept, row_words
from ring_attn_backends.triton.places import document, reach, tile_of, visited
from ring_attn_backends.triton.scores import allowed, base2_scores, biased, slope_of
from ring_attn_backends.triton.softmax import known
from ring_attn_backends.triton.tiles import load_tile, load_vector, matrix, store_tile, vector


@triton.jit(do_not_specialize=RUN_TIME)
def backward_dq(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, delta_ptr, dq_ptr, slopes_ptr, cu_rows_ptr, cu_keys_ptr,
    dout_strides, q_strides, k_strides, v_strides, lse_strides, delta_strides, dq_strides,
    slopes_strides,
    group, M, N, low, high, row_split, row_jump, key_split, key_jump, row_start, key_start, step,
    word_0, word_1, threshold, keep_share, scale, cap, gradient_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, CHUNKED: tl.constexpr, PACKED: tl.constexpr,
    ADD: tl.constexpr,
) -> None:  # fmt: skip
    """dq of BLOCK_M rows of one head; grid (row tiles, H, B), or if PACKED (B, H, tiles).

    The numbers and switches are explained in `arguments`. ADD: to what dq holds.
    """
    # longest rows first, as in `forward`
    row_token, key_token, head = 0, 0, tl.program_id(1)
    if PACKED:
        batch = tl.program_id(0)
        row_token, M = document(cu_rows_ptr, batch)
        key_token, N = document(cu_keys_ptr, batch)
        row_start = N - M
        low, high = low - row_start, high - row_start
        tile = tl.cdiv(M, BLOCK_M) - 1 - tl.program_id(2)
        if tile < 0:
            return
    else:
        batch = tl.program_id(2)
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
    first_row, row_stop, row_ahead = tile_of(tile, row_split, row_jump, M, BLOCK_M, CHUNKED)
    head_0, head_1 = head_words(word_0, word_1, batch * tl.num_programs(1) + head, DROPPED)
    head, batch = head.to(tl.int64), batch.to(tl.int64)
    dout_ptr = matrix(dout_ptr, dout_strides, batch, head, row_token, PACKED)
    q_ptr = matrix(q_ptr, q_strides, batch, head, row_token, PACKED)
    k_ptr = matrix(k_ptr, k_strides, batch, head // group, key_token, PACKED)
    v_ptr = matrix(v_ptr, v_strides, batch, head // group, key_token, PACKED)
    lse_ptr = vector(lse_ptr, lse_strides, batch, head, row_token, PACKED)
    delta_ptr = vector(delta_ptr, delta_strides, batch, head, row_token, PACKED)
    dq_ptr = matrix(dq_ptr, dq_strides, batch, head, row_token, PACKED)

    first_place = first_row + row_ahead
    last_place = tl.minimum(first_row + BLOCK_M, row_stop) - 1 + row_ahead
    left, right, whole, edges = reach(
        first_place, last_place, -high, -low, key_split, key_jump, N, BLOCK_N, CHUNKED
    )
    if ADD and whole + edges == 0:
        return

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
    dq = accumulate(
        dq, q, dout, lse, delta, k_ptr, v_ptr, k_strides[1], v_strides[1], first_place,
        whole, left, right, key_split, key_jump, N, low, high, row_start, key_start, step,
        head_0, head_1, threshold, scale, cap, slope,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED, CHUNKED,
        EDGE=False,
    )  # fmt: skip
    dq = accumulate(
        dq, q, dout, lse, delta, k_ptr, v_ptr, k_strides[1], v_strides[1], first_place,
        edges, left, right, key_split, key_jump, N, low, high, row_start, key_start, step,
        head_0, head_1, threshold, scale, cap, slope,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED, CHUNKED,
        EDGE=True,
    )  # fmt: skip
    dq *= gradient_scale
    store_tile(dq_ptr, first_row, dq_strides[1], row_stop, dq, D, BLOCK_M, BLOCK_D, ADD)


@triton.jit
def accumulate(
    dq, q, dout, lse, delta, k_ptr, v_ptr, k_stride, v_stride, first_place,
    count, left, right, key_split, key_jump, N, low, high, row_start, key_start, step,
    head_0, head_1, threshold, scale, cap, slope,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, CHUNKED: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the shares of `count` key tiles to a row tile's dq; the tiles as in `forward`'s loop."""
    row_places = first_place + tl.arange(0, BLOCK_M)
    anchor = row_start + step * first_place
    if BIASED:
        row_offsets = (step * (row_places - first_place)).to(tl.float32)
    if DROPPED:
        row_0, row_1 = row_words(head_0, head_1, row_start + step * row_places)
    for index in tl.range(0, count):
        first_key, key_stop, key_ahead = visited(
            index, left, right, key_split, key_jump, N, BLOCK_N, CHUNKED, EDGE
        )
        k = load_tile(k_ptr, first_key, k_stride, key_stop, D, BLOCK_N, BLOCK_D, CHECK=EDGE)
        v = load_tile(v_ptr, first_key, v_stride, key_stop, E, BLOCK_N, BLOCK_E, CHECK=EDGE)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        capped = s
        key_places = first_key + key_ahead + tl.arange(0, BLOCK_N)
        if BIASED:
            key_offsets = (key_start + step * key_places - anchor).to(tl.float32)
            s = biased(s, slope, row_offsets[:, None], key_offsets[None, :])
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")
        if DROPPED:
            columns = column_words(key_start + step * key_places)[None, :]
            dp = tl.where(kept(row_0[:, None], row_1[:, None], columns, threshold), dp, 0.0)
        ds = tl.exp2(s - lse[:, None]) * (dp - delta[:, None])
        if CAPPED:
            ds *= 1.0 - (capped / cap) * (capped / cap)  # the slope of cap * tanh
        if EDGE:
            visible = allowed(row_places[:, None], key_places[None, :], low, high)
            ds = tl.where(visible & (key_places < key_stop + key_ahead)[None, :], ds, 0.0)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq
