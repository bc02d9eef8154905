"""Partial results of programs that share the keys of a head, and how the last of them joins them.

Of S shares of R rows in all: share_out (S, R, E) and share_lse (S, R), float32, contiguous, rows
counted by query, then by head. A share whose lse is -inf has no out.
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.softmax import finished, finite

AT_ONCE = tl.constexpr(8)
"""Shares whose loads are under way together: 8 of 16 rows of 128 fill half of the registers."""


@triton.jit
def put_share(
    share_out_ptr, share_lse_ptr, at, split, total_rows, acc, total, peak,
    real, has_keys, E: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Writes one program's: rows at `at` of its split."""
    columns = tl.arange(0, BLOCK_E)[None, :]
    divisor, lse = finished(total, peak)
    at += split.to(tl.int64) * total_rows
    tl.store(share_lse_ptr + at, lse, mask=real)
    there = real[:, None] & (columns < E) & has_keys
    tl.store(share_out_ptr + at[:, None] * E + columns, acc / divisor[:, None], mask=there)


@triton.jit
def last_of(counter_ptr, splits):
    """Whether all other programs of the counter have written their shares; it is 0 then again.

    What they wrote is seen after this: each counts itself when all of its threads have written.
    """
    tl.debug_barrier()
    is_last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == splits - 1
    if is_last:
        tl.store(counter_ptr, 0)
    return is_last


@triton.jit
def join(
    share_out_ptr, share_lse_ptr, at, splits, total_rows, real,
    E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """acc, total and peak of rows from all of their shares, in the order of the splits."""
    columns = tl.arange(0, BLOCK_E)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for _ in tl.range(0, splits, loop_unroll_factor=AT_ONCE):
        # .cg: another multiprocessor wrote it, and what this one has cached of it is older
        lse = tl.load(share_lse_ptr + at, real, float("-inf"), cache_modifier=".cg")
        here = real[:, None] & (columns < E)
        out = tl.load(share_out_ptr + at[:, None] * E + columns, here, 0.0, cache_modifier=".cg")
        out = tl.where((lse > float("-inf"))[:, None], out, 0.0)
        base2 = lse * 1.4426950408889634  # log2(e)
        new_peak = tl.maximum(peak, base2)
        shift = finite(new_peak)
        weight, fade = tl.exp2(base2 - shift), tl.exp2(peak - shift)
        acc = acc * fade[:, None] + out * weight[:, None]
        total = total * fade + weight
        peak = new_peak
        at += total_rows
    return acc, total, peak
