"""Partial results of programs that shared the keys of a head, joined by their lse."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.softmax import finite, with_sink


@triton.jit(do_not_specialize=["splits", "total_rows", "H", "M"])
def merge(
    partial_out_ptr, partial_lse_ptr, out_ptr, lse_ptr, sink_ptr, out_strides, lse_strides,
    splits, total_rows, H, M,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
    BY_HEAD: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of BLOCK_R rows from their partials; grid (total_rows / BLOCK_R,).

    In the order of the splits: deterministic. A partial of lse -inf has no out. Partials are in
    the order of out (B, M, H); BY_HEAD, those of lse in its own (B, H, M).
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = at < total_rows
    query, head = at // H, at % H
    entry, query = query // M, query % M
    of_lse = at
    if BY_HEAD:
        of_lse = (entry * H + head) * M + query
    columns = tl.arange(0, BLOCK_E)
    peak = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, BLOCK_E], tl.float32)
    for first in tl.range(0, splits, BLOCK_S):
        numbers = first + tl.arange(0, BLOCK_S)
        before = (numbers.to(tl.int64) * total_rows)[None, :]
        held = inside[:, None] & (numbers < splits)[None, :]
        lse = tl.load(partial_lse_ptr + before + of_lse[:, None], mask=held, other=float("-inf"))
        base2 = lse * 1.4426950408889634  # log2(e)
        new_peak = tl.maximum(peak, tl.max(base2, 1))
        shift = finite(new_peak)
        weights = tl.exp2(base2 - shift[:, None])
        there = (lse > float("-inf"))[:, :, None] & (columns < E)[None, None, :]
        places = (before + at[:, None])[:, :, None] * E + columns[None, None, :]
        out = tl.load(partial_out_ptr + places, mask=there, other=0.0)
        fade = tl.exp2(peak - shift)
        acc = acc * fade[:, None] + tl.sum(out * weights[:, :, None], 1)
        total = total * fade + tl.sum(weights, 1)
        peak = new_peak
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + head).to(tl.float32)
        fade, total, peak = with_sink(sink, total, peak)
        acc = acc * fade[:, None]
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = (finite(peak) + tl.log2(total)) * 0.6931471805599453  # ln(2)
    if sink_ptr is not None:
        lse = tl.maximum(lse, sink)
    out_at = entry * out_strides[0] + query * out_strides[1] + head * out_strides[2]
    stored = inside[:, None] & (columns < E)[None, :]
    pointers = out_ptr + out_at[:, None] + columns[None, :]
    tl.store(pointers, acc.to(out_ptr.dtype.element_ty), mask=stored)
    lse_at = entry * lse_strides[0] + head * lse_strides[1] + query
    tl.store(lse_ptr + lse_at, lse, mask=inside)
