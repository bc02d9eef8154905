"""Adds up the shares that programs left which had a part of a key head's queries each."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["splits", "documents", "N"])
def sum_splits(
    dk_shares_ptr, dv_shares_ptr, dk_ptr, dv_ptr, cu_keys_ptr, dk_strides, dv_strides,
    splits, documents, N, G,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, ADD: tl.constexpr,
) -> None:  # fmt: skip
    """Shares (splits, B, N, G, D) or E, contiguous float32, to their sum, in split order.

    Grid (tiles of BLOCK tokens and heads, B, dk and dv). One order for all: deterministic. ADD: to
    what is there already. cu_keys_ptr: of packed documents, or None; what is in none of them nobody
    has computed, and it is left as it is.
    """
    first, stop = 0, N
    if cu_keys_ptr is not None:
        first, stop = tl.load(cu_keys_ptr), tl.load(cu_keys_ptr + documents)
    if tl.program_id(2) == 0:
        _sum(dk_shares_ptr, dk_ptr, dk_strides, splits, first, stop, N, G, D, BLOCK_D, BLOCK, ADD)
    else:
        _sum(dv_shares_ptr, dv_ptr, dv_strides, splits, first, stop, N, G, E, BLOCK_E, BLOCK, ADD)


@triton.jit
def _sum(
    shares_ptr, sum_ptr, sum_strides, splits, first, stop, N, G,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
) -> None:  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    inside = (at >= first * G) & (at < stop * G)
    if D < BLOCK_D:
        inside = inside & (columns < D)
    size = tl.num_programs(1).to(tl.int64) * N * G * D
    shares_ptr += batch * N * G * D + at.to(tl.int64) * D + columns
    total = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for _ in tl.range(0, splits):
        total += tl.load(shares_ptr, mask=inside, other=0.0)
        shares_ptr += size
    token, head = (at // G).to(tl.int64), (at % G).to(tl.int64)
    sum_ptr += batch * sum_strides[0]
    pointers = sum_ptr + token * sum_strides[1] + head * sum_strides[2] + columns
    if ADD:
        total += tl.load(pointers, mask=inside, other=0.0)
    tl.store(pointers, total.to(sum_ptr.dtype.element_ty), mask=inside)
