"""The ring's merge on a GPU: one kernel that reads and writes every element once."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Of out that a program merges: 32 for each of its 128 threads, to keep many loads in flight."""


def merge(
    out_acc: Tensor, lse_acc: Tensor, block_out: Tensor, block_lse: Tensor, target: Tensor | None
) -> None:
    """Merges a block's (out, lse) into accumulators, in place.

    lse_acc and block_lse (B, H, M): float32, which is what is computed in. out_acc and block_out
    (B, M, H, E): any float dtype. Any strides but a contiguous last dim, all of them.
    target (B, M, H, E): if given, the merged out goes there, in its dtype, and not to out_acc.

    lse = log(exp(lse_acc) + exp(block_lse)), out = exp(lse_acc - lse) out_acc
    + exp(block_lse - lse) block_out (Milakov & Gimelshein 2018). A row that saw no key on either
    side (both lse -inf) gets out 0, lse -inf; an infinite lse stays one, and its out is NaN.
    """
    batch, tokens, heads, head_dim = out_acc.shape
    if out_acc.numel() == 0:
        return
    target = out_acc if target is None else target
    for tensor in (out_acc, lse_acc, block_out, block_lse, target):
        assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1, "the last dim must be contiguous"
    block_e = triton.next_power_of_2(head_dim)
    block_m = max(1, ELEMENTS // block_e)
    # heads before tokens: neighbours in the grid are neighbours in token-major memory
    grid = (triton.cdiv(tokens, block_m) * heads, batch)
    with torch.cuda.device(out_acc.device) if out_acc.is_cuda else nullcontext():
        _merge[grid](
            out_acc, lse_acc, block_out, block_lse, target,
            out_acc.stride()[:3], lse_acc.stride()[:2], block_out.stride()[:3],
            block_lse.stride()[:2], target.stride()[:3],
            tokens, heads, E=head_dim, BLOCK_E=block_e, BLOCK_M=block_m, num_warps=4,
        )  # fmt: skip


@triton.jit(do_not_specialize=["M", "H"])
def _merge(
    out_ptr, lse_ptr, block_out_ptr, block_lse_ptr, target_ptr,
    out_strides, lse_strides, block_out_strides, block_lse_strides, target_strides,
    M, H, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
) -> None:  # fmt: skip
    """BLOCK_M tokens of one head; grid (token tiles x H, B); strides (batch, token, head)."""
    head = (tl.program_id(0) % H).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    # 64 bits: a shard may pass 2^31 elements
    rows = (tl.program_id(0) // H).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    exists = rows < M
    lse_ptrs = lse_ptr + batch * lse_strides[0] + head * lse_strides[1] + rows
    block_lse_ptr += batch * block_lse_strides[0] + head * block_lse_strides[1]
    old = tl.load(lse_ptrs, mask=exists, other=0.0)
    new = tl.load(block_lse_ptr + rows, mask=exists, other=0.0)
    peak = tl.maximum(old, new)
    peak = tl.where(tl.abs(peak) == float("inf"), 0.0, peak)  # so that no inf - inf is taken
    old_weight = tl.exp2((old - peak) * 1.4426950408889634)  # log2(e)
    new_weight = tl.exp2((new - peak) * 1.4426950408889634)
    total = old_weight + new_weight
    share = tl.where(total == 0.0, 0.0, 1.0 / total)  # neither side saw a key: out 0
    columns = tl.arange(0, BLOCK_E)[None, :]
    inside = exists[:, None] & (columns < E)
    rows = rows[:, None]
    out_ptr += batch * out_strides[0] + head * out_strides[2]
    block_out_ptr += batch * block_out_strides[0] + head * block_out_strides[2]
    target_ptr += batch * target_strides[0] + head * target_strides[2]
    out = tl.load(out_ptr + rows * out_strides[1] + columns, mask=inside).to(tl.float32)
    block = tl.load(block_out_ptr + rows * block_out_strides[1] + columns, mask=inside)
    out = out * (old_weight * share)[:, None] + block.to(tl.float32) * (new_weight * share)[:, None]
    out = out.to(target_ptr.dtype.element_ty)
    tl.store(target_ptr + rows * target_strides[1] + columns, out, mask=inside)
    # Every warp loads the lse of all rows, and one stores them: without a barrier a warp that is
    # late reads the merged lse as the old one (seen on an H200, in one row of some ten thousand).
    tl.debug_barrier()
    tl.store(lse_ptrs, peak + tl.log2(total) * 0.6931471805599453, mask=exists)  # ln(2)
