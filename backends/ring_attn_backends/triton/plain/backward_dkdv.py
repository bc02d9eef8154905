"""The backward kernel for dk, dv: key tiles stay, row tiles pass (Dao 2023, FlashAttention-2)."""
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
def backward_dkdv(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, slopes_ptr,
    cu_rows_ptr, cu_keys_ptr,
    dout_strides, q_strides, k_strides, v_strides, lse_strides, delta_strides,
    dk_strides, dv_strides, slopes_strides,
    group, M, N, low, high, row_split, row_jump, key_split, key_jump, row_start, key_start, step,
    word_0, word_1, threshold, keep_share, scale, cap, gradient_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, CHUNKED: tl.constexpr, PACKED: tl.constexpr,
    ADD: tl.constexpr,
) -> None:  # fmt: skip
    """dk, dv of BLOCK_N keys of one key head; grid (key tiles, G, B), or if PACKED (B, G, tiles).

    The query heads of the group are summed here, one after another: no atomics, no copies of a
    key head. The numbers and switches are explained in `arguments`. ADD: to what dk and dv hold.
    """
    row_token, key_token, head = 0, 0, tl.program_id(1)
    if PACKED:
        batch, tile = tl.program_id(0), tl.program_id(2)
        row_token, M = document(cu_rows_ptr, batch)
        key_token, N = document(cu_keys_ptr, batch)
        row_start = N - M
        low, high = low - row_start, high - row_start
        if tile * BLOCK_N >= N:
            return
    else:
        batch, tile = tl.program_id(2), tl.program_id(0)
    first_key, key_stop, key_ahead = tile_of(tile, key_split, key_jump, N, BLOCK_N, CHUNKED)
    first_head = (batch * tl.num_programs(1) + head) * group
    head, batch = head.to(tl.int64), batch.to(tl.int64)
    dout_ptr = matrix(dout_ptr, dout_strides, batch, head * group, row_token, PACKED)
    q_ptr = matrix(q_ptr, q_strides, batch, head * group, row_token, PACKED)
    k_ptr = matrix(k_ptr, k_strides, batch, head, key_token, PACKED)
    v_ptr = matrix(v_ptr, v_strides, batch, head, key_token, PACKED)
    lse_ptr = vector(lse_ptr, lse_strides, batch, head * group, row_token, PACKED)
    delta_ptr = vector(delta_ptr, delta_strides, batch, head * group, row_token, PACKED)
    dk_ptr = matrix(dk_ptr, dk_strides, batch, head, key_token, PACKED)
    dv_ptr = matrix(dv_ptr, dv_strides, batch, head, key_token, PACKED)
    if BIASED:
        slopes_ptr += batch * slopes_strides[0] + head * group * slopes_strides[1]

    first_place = first_key + key_ahead
    last_place = tl.minimum(first_key + BLOCK_N, key_stop) - 1 + key_ahead
    left, right, whole, edges = reach(
        first_place, last_place, low, high, row_split, row_jump, M, BLOCK_M, CHUNKED
    )
    k = load_tile(k_ptr, first_key, k_strides[1], key_stop, D, BLOCK_N, BLOCK_D, CHECK=True)
    v = load_tile(v_ptr, first_key, v_strides[1], key_stop, E, BLOCK_N, BLOCK_E, CHECK=True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    dk, dv = accumulate(
        dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr, slopes_ptr,
        dout_strides, q_strides, lse_strides, delta_strides, slopes_strides, first_place,
        group, whole, left, right, row_split, row_jump, M, low, high, row_start, key_start, step,
        word_0, word_1, first_head, threshold, keep_share, scale, cap,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED, CHUNKED,
        EDGE=False,
    )  # fmt: skip
    dk, dv = accumulate(
        dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr, slopes_ptr,
        dout_strides, q_strides, lse_strides, delta_strides, slopes_strides, first_place,
        group, edges, left, right, row_split, row_jump, M, low, high, row_start, key_start, step,
        word_0, word_1, first_head, threshold, keep_share, scale, cap,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, PRECISE, CAPPED, BIASED, DROPPED, CHUNKED,
        EDGE=True,
    )  # fmt: skip
    dk *= gradient_scale
    if DROPPED:
        dv /= keep_share
    store_tile(dk_ptr, first_key, dk_strides[1], key_stop, dk, D, BLOCK_N, BLOCK_D, ADD)
    store_tile(dv_ptr, first_key, dv_strides[1], key_stop, dv, E, BLOCK_N, BLOCK_E, ADD)


@triton.jit
def accumulate(
    dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr, slopes_ptr,
    dout_strides, q_strides, lse_strides, delta_strides, slopes_strides, first_place,
    group, count, left, right, row_split, row_jump, M, low, high, row_start, key_start, step,
    word_0, word_1, first_head, threshold, keep_share, scale, cap,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISE: tl.constexpr, CAPPED: tl.constexpr,
    BIASED: tl.constexpr, DROPPED: tl.constexpr, CHUNKED: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the shares of `count` row tiles of each head; scores are transposed, (BLOCK_N, BLOCK_M).

    So p and ds come out of the products as the next ones' left operands, in registers. The tiles
    as in `forward`'s loop, rows for keys. Heads and tiles are one loop, not two: nested, it
    spills (sm_90, head dim 128: 120 bytes more), and drains the loads ahead at every head.
    """
    key_places = first_place + tl.arange(0, BLOCK_N)
    anchor = key_start + step * first_place
    if BIASED:
        key_offsets = (step * (key_places - first_place)).to(tl.float32)
    if DROPPED:
        columns = column_words(key_start + step * key_places)[:, None]
    for index in tl.range(0, group * count):
        head = index // count
        first_row, row_stop, row_ahead = visited(
            index % count, left, right, row_split, row_jump, M, BLOCK_M, CHUNKED, EDGE
        )
        if DROPPED:
            head_0, head_1 = head_words(word_0, word_1, first_head + head, DROPPED)
        head = head.to(tl.int64)
        q = load_tile(
            q_ptr + head * q_strides[2], first_row, q_strides[1], row_stop,
            D, BLOCK_M, BLOCK_D, CHECK=EDGE,
        )  # fmt: skip
        dout = load_tile(
            dout_ptr + head * dout_strides[2], first_row, dout_strides[1], row_stop,
            E, BLOCK_M, BLOCK_E, CHECK=EDGE,
        )  # fmt: skip
        lse = load_vector(lse_ptr + head * lse_strides[1], first_row, row_stop, BLOCK_M, EDGE)
        delta = load_vector(delta_ptr + head * delta_strides[1], first_row, row_stop, BLOCK_M, EDGE)
        row_places = first_row + row_ahead + tl.arange(0, BLOCK_M)

        s = tl.dot(k, tl.trans(q), input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        capped = s
        if BIASED:
            slope = slope_of(slopes_ptr, slopes_strides, 0, head)
            row_offsets = (row_start + step * row_places - anchor).to(tl.float32)
            s = biased(s, slope, row_offsets[None, :], key_offsets[:, None])
        p = tl.exp2(s - known(lse)[None, :])
        if EDGE:
            visible = allowed(row_places[None, :], key_places[:, None], low, high)
            visible &= (row_places < row_stop + row_ahead)[None, :]
            p = tl.where(visible, p, 0.0)
        weights = p
        if DROPPED:
            row_0, row_1 = row_words(head_0, head_1, row_start + step * row_places)
            stays = kept(row_0[None, :], row_1[None, :], columns, threshold)
            weights = tl.where(stays, p, 0.0)
        dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision="ieee")
        dp = tl.dot(v, tl.trans(dout), input_precision="ieee")
        if DROPPED:
            dp = tl.where(stays, dp, 0.0)
            delta *= keep_share
        ds = p * (dp - delta[None, :])
        if CAPPED:
            ds *= 1.0 - (capped / cap) * (capped / cap)  # the slope of cap * tanh
            if EDGE:  # an infinite score's slope is NaN where p is 0
                ds = tl.where(visible, ds, 0.0)
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv
