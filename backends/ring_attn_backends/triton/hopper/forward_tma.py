"""A forward kernel without specialised warps, whose tiles come by TMA (FlashAttention-2).

For head dim 64, where the exponentials take as long as the products: three small programs on a
multiprocessor hide them behind each other's products better than one with two warpgroups does.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.hopper.programs import (
    RUN_TIME,
    matrix_of,
    place,
    results_of,
    seen,
    sides,
    tile_and_head,
    vector_of,
)
from ring_attn_backends.triton.scores import tanh
from ring_attn_backends.triton.softmax import carried, finished, finite


@triton.jit(do_not_specialize=RUN_TIME)
def forward_tma(
    q_desc, k_desc, v_desc, acc_ptr, out_ptr, lse_ptr, cu_rows_ptr, cu_keys_ptr,
    acc_strides, out_strides, lse_strides,
    tiles, heads, all_heads, section, group, M, N, low, high, scale, cap,
    E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CAPPED: tl.constexpr, CARRIED: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of BLOCK_M rows of one head; all as in `forward.forward`."""
    tile, head = tile_and_head(tiles, all_heads, section)
    row_side, key_side, low, high = sides(
        head // heads, cu_rows_ptr, cu_keys_ptr, M, N, low, high
    )  # fmt: skip
    M, N = row_side[2], key_side[2]
    into = results_of(row_side, head // heads, cu_rows_ptr)
    head = head % heads
    first_row = (tl.cdiv(M, BLOCK_M) - 1 - tile) * BLOCK_M
    if cu_rows_ptr is not None:  # noqa: SIM102 - Triton would compile what stands behind an `and`
        if first_row < 0:  # a shorter document than the longest
            return
    last_row = tl.minimum(first_row + BLOCK_M, M) - 1
    start, before, whole, edges = seen(first_row, last_row, -high, -low, N, BLOCK_N)
    out_ptr = matrix_of(into, head, out_ptr, out_strides)
    lse_ptr = vector_of(into, head, lse_ptr, lse_strides)
    rows = first_row + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_E)[None, :]
    inside = (rows < M)[:, None]
    if E < BLOCK_E:
        inside = inside & (columns < E)
    q = _tile(q_desc, row_side, first_row, head)
    if CARRIED:
        acc_ptr = matrix_of(into, head, acc_ptr, acc_strides)
        pointers = acc_ptr + rows.to(tl.int64)[:, None] * acc_strides[1] + columns
        acc = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
        total, peak = carried(tl.load(lse_ptr + rows, mask=rows < M, other=0.0))
    else:
        acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    key_head = head // group
    for index in tl.range(0, whole):
        first_key = (start + before + index) * BLOCK_N
        k = _tile(k_desc, key_side, first_key, key_head)
        s = tl.dot(q, k.T)
        if CAPPED:
            s = cap * tanh(s * scale, False)
        acc, total, peak, p = _soften(acc, total, peak, s, scale, CAPPED)
        v = _tile(v_desc, key_side, first_key, key_head)
        acc = tl.dot(p.to(v.dtype), v, acc)
    for index in tl.range(0, edges):
        first_key = (start + index + tl.where(index >= before, whole, 0)) * BLOCK_N
        k = _tile(k_desc, key_side, first_key, key_head)
        s = tl.dot(q, k.T)
        if CAPPED:
            s = cap * tanh(s * scale, False)
        keys = first_key + tl.arange(0, BLOCK_N)
        distance = rows[:, None] - keys[None, :]
        visible = (distance >= low) & (distance <= high) & (keys < N)[None, :]
        s = tl.where(visible, s, float("-inf"))
        acc, total, peak, p = _soften(acc, total, peak, s, scale, CAPPED)
        v = _tile(v_desc, key_side, first_key, key_head)
        acc = tl.dot(p.to(v.dtype), v, acc)
    total, lse = finished(total, peak)
    out = acc * (1.0 / total)[:, None]
    pointers = out_ptr + rows.to(tl.int64)[:, None] * out_strides[1] + columns
    tl.store(pointers, out.to(out_ptr.dtype.element_ty), mask=inside)
    if CARRIED:
        tl.debug_barrier()  # as in the plain kernel: all warps have read lse before one writes it
    tl.store(lse_ptr + rows, lse, mask=rows < M)


@triton.jit
def _soften(acc, total, peak, s, scale, CAPPED: tl.constexpr):
    """The online softmax (`softmax.soften`), with the scale in exp2's FMA unless it is in s."""
    if CAPPED:
        new_peak = tl.maximum(peak, tl.max(s, 1))
        shift = finite(new_peak)
        p = tl.exp2(s - shift[:, None])
    else:
        new_peak = tl.maximum(peak, tl.max(s, 1) * scale)
        shift = finite(new_peak)
        p = tl.exp2(s * scale - shift[:, None])
    fade = tl.exp2(peak - shift)
    return acc * fade[:, None], total * fade + tl.sum(p, 1), new_peak, p


@triton.jit
def _tile(desc, side, token, head):
    """The tile (tokens, columns) that `pipes.bring` would bring."""
    tile = desc.load(place(desc, side, token, head))
    return tile.reshape(desc.block_shape[-3], desc.block_shape[-1])
