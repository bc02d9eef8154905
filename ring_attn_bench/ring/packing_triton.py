"""Keys, or their gradients, from buffer to buffer on a GPU: one launch, made by the driver."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.relaunch import Kept, Made, relaunch, signature

ELEMENTS = 8192
"""Of k, and of v, that a program copies."""

_kept = Kept()


def copy_keys(keys: Keys, into: Keys) -> None:
    """k (B, N, G, D) and v (B, N, G, E) to tensors of the same shapes and dtype, any strides but
    a contiguous last dim."""
    _enqueue(keys, into, keys, 0)


def sum_keys(keys: Keys, part: Keys, first: int, into: Keys) -> None:
    """keys plus `part`, whose token 0 is their token `first`, in the dtype of `into`.

    Accumulated in float32; shapes and strides as above, the dtypes may differ.
    """
    _enqueue(keys, into, part, first, adds=True)


def _enqueue(keys: Keys, into: Keys, part: Keys, first: int, *, adds: bool = False) -> None:
    if keys.k.shape[1] == 0:
        return
    tensors = (*keys, *into, *part) if adds else (*keys, *into)
    key = first, signature(tensors)
    kept = _kept.get(key)
    if kept is not None:
        kept.run(tensors)
        return
    _kept[key] = relaunch([_made(keys, into, part, first, adds=adds)], tensors)


def _made(keys: Keys, into: Keys, part: Keys, first: int, *, adds: bool) -> Made:
    k, v = keys
    batch, tokens, heads, _ = k.shape
    width = triton.next_power_of_2(max(k.shape[-1], v.shape[-1]))
    block = max(1, ELEMENTS // width)
    # heads before tokens: neighbours in the grid are neighbours in a caller's token-major memory
    grid = (triton.cdiv(tokens, block) * heads, batch, 1)
    tensors = (k, v, *into, *part)
    arguments = (
        *tensors, *(x.stride()[:3] for x in tensors), tokens, heads, first, part.k.shape[1],
        k.shape[-1], v.shape[-1], width, block, adds,
    )  # fmt: skip
    with torch.cuda.device(k.device) if k.is_cuda else nullcontext():
        compiled = _copy[grid](*arguments, num_warps=4)
    return Made(compiled, grid, arguments)


@triton.jit(do_not_specialize=["N", "G", "first", "count"])
def _copy(
    k_ptr, v_ptr, to_k_ptr, to_v_ptr, part_k_ptr, part_v_ptr,
    k_strides, v_strides, to_k_strides, to_v_strides, part_k_strides, part_v_strides,
    N, G, first, count,
    D: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr,
) -> None:  # fmt: skip
    """BLOCK tokens of one head; grid (token tiles x G, B); strides (batch, token, head)."""
    head = (tl.program_id(0) % G).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    # 64 bits: a shard may pass 2^31 elements
    rows = ((tl.program_id(0) // G).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    k_ptr += batch * k_strides[0] + head * k_strides[2]
    v_ptr += batch * v_strides[0] + head * v_strides[2]
    to_k_ptr += batch * to_k_strides[0] + head * to_k_strides[2]
    to_v_ptr += batch * to_v_strides[0] + head * to_v_strides[2]
    of_k, of_v = (rows < N) & (columns < D), (rows < N) & (columns < E)
    k = tl.load(k_ptr + rows * k_strides[1] + columns, mask=of_k)
    v = tl.load(v_ptr + rows * v_strides[1] + columns, mask=of_v)
    if ADDS:
        part_k_ptr += batch * part_k_strides[0] + head * part_k_strides[2]
        part_v_ptr += batch * part_v_strides[0] + head * part_v_strides[2]
        given = rows - first
        there = (given >= 0) & (given < count)
        part_k = tl.load(
            part_k_ptr + given * part_k_strides[1] + columns, mask=of_k & there, other=0.0
        )
        part_v = tl.load(
            part_v_ptr + given * part_v_strides[1] + columns, mask=of_v & there, other=0.0
        )
        k = k.to(tl.float32) + part_k.to(tl.float32)
        v = v.to(tl.float32) + part_v.to(tl.float32)
    tl.store(
        to_k_ptr + rows * to_k_strides[1] + columns, k.to(to_k_ptr.dtype.element_ty), mask=of_k
    )
    tl.store(
        to_v_ptr + rows * to_v_strides[1] + columns, v.to(to_v_ptr.dtype.element_ty), mask=of_v
    )
