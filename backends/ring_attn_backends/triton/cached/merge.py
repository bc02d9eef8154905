"""Partial results of programs that shared the keys of a head, joined by their lse."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.softmax import finite, with_sink


@triton.jit(do_not_specialize=["splits", "total_rows", "H", "M"])
def merge(
    partial_out_ptr, partial_lse_ptr, out_ptr, lse_ptr, sink_ptr, out_strides, lse_strides,
    splits, total_rows, H, M,
    E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr, BY_HEAD: tl.constexpr,
) -> None:  # fmt: skip
    """out and lse of one row from its partials (`attend`); grid (total_rows,).

    In the order of the splits: deterministic. A partial of lse -inf has no out. Partials are in
    the order of out (B, M, H); BY_HEAD, those of lse in its own (B, H, M).
    """
    at = tl.program_id(0).to(tl.int64)
    query, head = at // H, at % H
    entry, query = query // M, query % M
    of_lse = at
    if BY_HEAD:
        of_lse = (entry * H + head) * M + query
    columns = tl.arange(0, BLOCK_E)
    peak, total = float("-inf"), 0.0
    acc = tl.zeros([BLOCK_E], tl.float32)
    for first in tl.range(0, splits, BLOCK_S):
        numbers = first + tl.arange(0, BLOCK_S)
        before = numbers.to(tl.int64) * total_rows
        lse = tl.load(partial_lse_ptr + before + of_lse, mask=numbers < splits, other=float("-inf"))
        base2 = lse * 1.4426950408889634  # log2(e)
        new_peak = tl.maximum(peak, tl.max(base2, 0))
        shift = finite(new_peak)
        weights = tl.exp2(base2 - shift)
        there = (lse > float("-inf"))[:, None] & (columns < E)[None, :]
        out = tl.load(partial_out_ptr + (before + at)[:, None] * E + columns, mask=there, other=0.0)
        fade = tl.exp2(peak - shift)
        acc = acc * fade + tl.sum(out * weights[:, None], 0)
        total = total * fade + tl.sum(weights, 0)
        peak = new_peak
    if sink_ptr is not None:
        sink = tl.load(sink_ptr + head).to(tl.float32)
        fade, total, peak = with_sink(sink, total, peak)
        acc = acc * fade
    acc = acc / tl.where(total == 0.0, 1.0, total)
    out_ptr += entry * out_strides[0] + query * out_strides[1] + head * out_strides[2]
    tl.store(out_ptr + columns, acc.to(out_ptr.dtype.element_ty), mask=columns < E)
    lse = (finite(peak) + tl.log2(total)) * 0.6931471805599453  # ln(2)
    if sink_ptr is not None:
        lse = tl.maximum(lse, sink)
    tl.store(lse_ptr + entry * lse_strides[0] + head * lse_strides[1] + query, lse)
