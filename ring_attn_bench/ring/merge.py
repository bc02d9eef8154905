"""Merges the attention of a row over some keys with its attention over other keys, in place.

With lse the log-sum-exp of a row's scores, out = sum over parts of exp(lse_part - lse) out_part
and lse = log sum exp lse_part (Milakov & Gimelshein 2018; Dao 2023, FlashAttention-2).
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge(
    out_acc: Tensor, lse_acc: Tensor, block_out: Tensor, block_lse: Tensor, target: Tensor | None
) -> None:
    """Merges a block's (out, lse) into accumulators, in place.

    lse_acc (B, H, M): float32 or float64, which is what is computed in. out_acc (B, M, H, E) and
    block_out: any float dtype. target: if given, the merged out goes there, in its dtype, and not
    to out_acc.
    One fused kernel on a GPU, torch on a CPU and in float64. A row that saw no key on either side
    stays at out 0, lse -inf.
    """
    if out_acc.is_cuda and lse_acc.dtype is torch.float32:
        from ring_attn_bench.ring import merge_triton

        merge_triton.merge(out_acc, lse_acc, block_out, block_lse, target)
        return
    lse = torch.logaddexp(lse_acc, block_lse)
    # of the difference alone: exp(block_lse - lse) loses at lse 1e4 what float32 rounds off there
    weight = torch.stack([lse_acc, block_lse]).softmax(0)[1]
    weight = torch.where(lse.isneginf(), 0.0, weight).transpose(1, 2)[..., None]
    merged = torch.lerp(out_acc.to(lse.dtype), block_out.to(lse.dtype), weight)
    (out_acc if target is None else target).copy_(merged)
    lse_acc.copy_(lse)
