"""The backward kernel for dk, dv: key tiles stay, row tiles pass (Dao 2023, FlashAttention-2)."""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.tiles import allowed, base2_scores, load_tile, reach, store_tile


@triton.jit(do_not_specialize=["group", "M", "N", "low", "high"])
def backward_dkdv(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    dout_strides, q_strides, k_strides, v_strides, lse_strides, delta_strides,
    dk_strides, dv_strides,
    group, M, N, low, high, scale, cap, softmax_scale,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
) -> None:  # fmt: skip
    """dk and dv of BLOCK_N keys of one key head; grid (key tiles, G, B).

    The query heads of the group are summed here, one after another: no atomics, no copies of a
    key head. Arguments as in `backward_dq`.
    """
    first_key = tl.program_id(0) * BLOCK_N
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    dout_ptr += batch * dout_strides[0] + head * group * dout_strides[2]
    q_ptr += batch * q_strides[0] + head * group * q_strides[2]
    k_ptr += batch * k_strides[0] + head * k_strides[2]
    v_ptr += batch * v_strides[0] + head * v_strides[2]
    lse_ptr += batch * lse_strides[0] + head * group * lse_strides[1]
    delta_ptr += batch * delta_strides[0] + head * group * delta_strides[1]
    dk_ptr += batch * dk_strides[0] + head * dk_strides[2]
    dv_ptr += batch * dv_strides[0] + head * dv_strides[2]

    k = load_tile(k_ptr, first_key, k_strides[1], N, D, BLOCK_N, BLOCK_D, CHECK=True)
    v = load_tile(v_ptr, first_key, v_strides[1], N, E, BLOCK_N, BLOCK_E, CHECK=True)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    last_key = tl.minimum(first_key + BLOCK_N, N) - 1
    start, whole_start, whole_stop, stop = reach(first_key, last_key, low, high, M, BLOCK_M)
    whole = whole_stop - whole_start
    dk, dv = _accumulate(
        dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr,
        dout_strides, q_strides, lse_strides, delta_strides,
        first_key, group, M, N, low, high, scale, cap, whole_start, whole, 0, 0,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=False,
    )  # fmt: skip
    dk, dv = _accumulate(
        dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr,
        dout_strides, q_strides, lse_strides, delta_strides,
        first_key, group, M, N, low, high, scale, cap, start, stop - start - whole,
        whole_start, whole,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=True,
    )  # fmt: skip
    store_tile(dk_ptr, first_key, dk_strides[1], N, dk * softmax_scale, D, BLOCK_N, BLOCK_D)
    store_tile(dv_ptr, first_key, dv_strides[1], N, dv, E, BLOCK_N, BLOCK_E)


@triton.jit
def _accumulate(
    dk, dv, k, v, dout_ptr, q_ptr, lse_ptr, delta_ptr,
    dout_strides, q_strides, lse_strides, delta_strides,
    first_key, group, M, N, low, high, scale, cap, start, count, skip_at, skip,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """Adds the shares of `count` row tiles of each head; scores are transposed, (BLOCK_N, BLOCK_M).

    So p and ds come out of the products as the next ones' left operands, in registers. The tiles
    as in `forward`'s loop, rows for keys. Heads and tiles are one loop, not two: nested, it
    spills (sm_90, head dim 128: 120 bytes more), and drains the loads ahead at every head.
    """
    keys = first_key + tl.arange(0, BLOCK_N)[:, None]
    for index in tl.range(0, group * count):
        head = (index // count).to(tl.int64)
        tile = start + index % count
        if EDGE:
            tile += tl.where(tile >= skip_at, skip, 0)
        first_row = tile * BLOCK_M
        q_head = q_ptr + head * q_strides[2]
        dout_head = dout_ptr + head * dout_strides[2]
        q = load_tile(q_head, first_row, q_strides[1], M, D, BLOCK_M, BLOCK_D, CHECK=EDGE)
        dout = load_tile(dout_head, first_row, dout_strides[1], M, E, BLOCK_M, BLOCK_E, CHECK=EDGE)
        rows = first_row + tl.arange(0, BLOCK_M)[None, :]
        lse_rows = lse_ptr + head * lse_strides[1] + rows
        delta_rows = delta_ptr + head * delta_strides[1] + rows
        if EDGE:
            lse = tl.load(lse_rows, mask=rows < M, other=0.0)
            delta = tl.load(delta_rows, mask=rows < M, other=0.0)
        else:
            lse = tl.load(lse_rows)
            delta = tl.load(delta_rows)
        lse *= 1.4426950408889634  # log2(e)
        lse = tl.where(lse == float("-inf"), 0.0, lse)  # as in `backward_dq`

        s = tl.dot(k, tl.trans(q), input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        p = tl.exp2(s - lse)
        if EDGE:
            visible = allowed(rows, keys, low, high) & (rows < M)
            p = tl.where(visible, p, 0.0)
        dv = tl.dot(p.to(dout.dtype), dout, dv, input_precision="ieee")
        ds = p * (tl.dot(v, tl.trans(dout), input_precision="ieee") - delta)
        if CAPPED:
            ds *= 1.0 - (s / cap) * (s / cap)  # the slope of cap * tanh
            if EDGE:  # an infinite score's slope is NaN where p is 0
                ds = tl.where(visible, ds, 0.0)
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv
