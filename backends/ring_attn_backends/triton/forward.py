"""The forward kernel: online softmax over key tiles (Dao 2023, FlashAttention-2, algorithm 1)."""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.tiles import allowed, base2_scores, load_tile, reach, store_tile


@triton.jit(do_not_specialize=["group", "M", "N", "low", "high"])
def forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    q_strides, k_strides, v_strides, out_strides, lse_strides,
    group, M, N, low, high, scale, cap,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of BLOCK_M rows of one head; grid (row tiles, H, B).

    Strides are (batch, token, head), lse's (batch, head), in elements. scale and cap: see
    `base2_scores`. low, high: row i sees key j iff low <= i - j <= high; both closed.
    """
    # under a causal mask the last rows have most keys: begin with them, end with the short ones
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_M
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    q_ptr += batch * q_strides[0] + head * q_strides[2]
    k_ptr += batch * k_strides[0] + head // group * k_strides[2]
    v_ptr += batch * v_strides[0] + head // group * v_strides[2]
    out_ptr += batch * out_strides[0] + head * out_strides[2]
    lse_ptr += batch * lse_strides[0] + head * lse_strides[1]

    q = load_tile(q_ptr, first_row, q_strides[1], M, D, BLOCK_M, BLOCK_D, CHECK=True)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    last_row = tl.minimum(first_row + BLOCK_M, M) - 1
    start, whole_start, whole_stop, stop = reach(first_row, last_row, -high, -low, N, BLOCK_N)
    acc, total, peak = _attend(
        acc, total, peak, q, k_ptr, v_ptr, k_strides[1], v_strides[1],
        first_row, N, low, high, scale, cap, whole_start, whole_stop, 0, 0,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=False,
    )  # fmt: skip
    whole = whole_stop - whole_start
    acc, total, peak = _attend(
        acc, total, peak, q, k_ptr, v_ptr, k_strides[1], v_strides[1],
        first_row, N, low, high, scale, cap, start, stop - whole, whole_start, whole,
        D, E, BLOCK_D, BLOCK_E, BLOCK_M, BLOCK_N, CAPPED, PRECISE, EDGE=True,
    )  # fmt: skip

    # a row without keys has total 0: out 0 / 1, lse log2(0) = -inf
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = (_finite(peak) + tl.log2(total)) * 0.6931471805599453  # ln(2)
    store_tile(out_ptr, first_row, out_strides[1], M, out, E, BLOCK_M, BLOCK_E)
    rows = first_row + tl.arange(0, BLOCK_M)
    tl.store(lse_ptr + rows, lse, mask=rows < M)


@triton.jit
def _attend(
    acc, total, peak, q, k_ptr, v_ptr, k_stride, v_stride,
    first_row, N, low, high, scale, cap, start, stop, skip_at, skip,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAPPED: tl.constexpr, PRECISE: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """Adds key tiles to a row tile's running sums, all relative to exp2(peak).

    EDGE: with a mask, and over the tiles `start` to `stop` with `skip` of them left out at
    `skip_at`: one loop for the edges on both sides of the whole tiles.
    """
    rows = first_row + tl.arange(0, BLOCK_M)[:, None]
    for index in tl.range(start, stop):
        tile = index
        if EDGE:
            tile += tl.where(index >= skip_at, skip, 0)
        first_key = tile * BLOCK_N
        k = load_tile(k_ptr, first_key, k_stride, N, D, BLOCK_N, BLOCK_D, CHECK=EDGE)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        s = base2_scores(s, scale, cap, CAPPED, PRECISE)
        if EDGE:
            keys = first_key + tl.arange(0, BLOCK_N)[None, :]
            s = tl.where(allowed(rows, keys, low, high) & (keys < N), s, float("-inf"))

        new_peak = tl.maximum(peak, tl.max(s, 1))
        shift = _finite(new_peak)
        p = tl.exp2(s - shift[:, None])
        fade = tl.exp2(peak - shift)
        total = total * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        v = load_tile(v_ptr, first_key, v_stride, N, E, BLOCK_N, BLOCK_E, CHECK=EDGE)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def _finite(peak):
    """peak, but 0 where it is -inf (no key yet) or inf: so that no inf - inf is taken."""
    return tl.where(tl.abs(peak) == float("inf"), 0.0, peak)
