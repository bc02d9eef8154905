"""The backward kernel for dq: row tiles stay, key tiles pass (Dao 2023, FlashAttention-2)."""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.tiles import allowed, base2_scores, load_tile, reach, store_tile


@triton.jit(do_not_specialize=["group", "M", "N", "low", "high"])
def backward_dq(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, delta_ptr, dq_ptr,
    dout_strides, q_strides, k_strides, v_strides, lse_strides, delta_strides, dq_strides,
    group, M, N, low, high, scale, cap, softmax_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
) -> None:  # fmt: skip
    """dq of BLOCK_M rows of one head; grid (row tiles, H, B).

    Strides are (batch, token, head), lse's and delta's (batch, head), in elements. Scores and
    band as in `forward`; softmax_scale is what dq is multiplied by at the end.
    """
    # longest rows first, as in `forward`
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    dout_ptr += batch * dout_strides[0] + head * dout_strides[2]
    q_ptr += batch * q_strides[0] + head * q_strides[2]
    k_ptr += batch * k_strides[0] + head // group * k_strides[2]
    v_ptr += batch * v_strides[0] + head // group * v_strides[2]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]
    delta_ptr += batch * delta_strides[0] + head * delta_strides[1]
    dq_ptr += batch * dq_strides[0] + head * dq_strides[2]

    rows = first_row + tl.arange(0, BLOCK_M)
    lse = tl.load(lse_ptr + rows, mask=rows < M, other=0.0) * 1.4426950408889634  # log2(e)
    # a row that sees nothing anywhere: exp2(-inf - 0) is the 0 that its probabilities should be
    lse = tl.where(lse == float("-inf"), 0.0, lse)[:, None]
    delta = tl.load(delta_ptr + rows, mask=rows < M, other=0.0)[:, None]
    q = load_tile(q_ptr, first_row, q_strides[1], M, D, BLOCK_M, BLOCK_D, CHECK=True)
    dout = load_tile(dout_ptr, first_row, dout_strides[1], M, E, BLOCK_M, BLOCK_E, CHECK=True)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    last_row = tl.minimum(first_row + BLOCK_M, M) - 1
    start, whole_start, whole_stop, stop = reach(first_row, last_row, -high, -low, N, BLOCK_N)
    dq = _accumulate(
        dq, q, dout, lse, delta, k_ptr, v_ptr, k_strides[1], v_strides[1],
        first_row, N, low, high, scale, cap, whole_start, whole_stop, 0, 0,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=False,
    )  # fmt: skip
    whole = whole_stop - whole_start
    dq = _accumulate(
        dq, q, dout, lse, delta, k_ptr, v_ptr, k_strides[1], v_strides[1],
        first_row, N, low, high, scale, cap, start, stop - whole, whole_start, whole,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=True,
    )  # fmt: skip
    store_tile(dq_ptr, first_row, dq_strides[1], M, dq * softmax_scale, D, BLOCK_M, BLOCK_D)


@triton.jit
def _accumulate(
    dq, q, dout, lse, delta, k_ptr, v_ptr, k_stride, v_stride,
    first_row, N, low, high, scale, cap, start, stop, skip_at, skip,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the shares of key tiles to a row tile's dq; the tiles as in `forward`'s loop."""
    rows = first_row + tl.arange(0, BLOCK_M)[:, None]
    for index in tl.range(start, stop):
        tile = index
        if EDGE:
            tile += tl.where(index >= skip_at, skip, 0)
        first_key = tile * BLOCK_N
        k = load_tile(k_ptr, first_key, k_stride, N, D, BLOCK_N, BLOCK_D, CHECK=EDGE)
        v = load_tile(v_ptr, first_key, v_stride, N, E, BLOCK_N, BLOCK_E, CHECK=EDGE)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        ds = tl.exp2(s - lse) * (tl.dot(dout, tl.trans(v), input_precision="ieee") - delta)
        if CAPPED:
            ds *= 1.0 - (s / cap) * (s / cap)  # the slope of cap * tanh
        if EDGE:
            keys = first_key + tl.arange(0, BLOCK_N)[None, :]
            ds = tl.where(allowed(rows, keys, low, high) & (keys < N), ds, 0.0)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq
