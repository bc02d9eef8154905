"""torch's flash attention on a CPU: a tiled loop that wants as many key heads as query heads."""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.shared.padding import cropped, fitted
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.problem import Problem

_ops = torch.ops.aten


def unsupported(problem: Problem) -> str | None:
    """What it was not built for."""
    if problem.dropout_p:
        return f"its CPU kernel has no dropout (dropout_p is {problem.dropout_p})"
    if problem.packed:
        return "its CPU kernel takes no packed documents"
    return None


def forward(q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
    """out and lse, by one call for each query head of a group."""
    width = max(q.shape[-1], keys.v.shape[-1])
    queries, (k, v) = fitted(q, width), (fitted(x, width).transpose(1, 2) for x in keys)
    causal, mask = _mask(call, q, keys.k)
    parts = [
        _ops._scaled_dot_product_flash_attention_for_cpu(
            own, k, v, 0.0, causal, attn_mask=mask, scale=call.score.softmax_scale
        )
        for own in _one_head_of_each_group(queries, keys.k.shape[2])
    ]
    out = torch.stack([out for out, _ in parts], dim=2).flatten(1, 2).transpose(1, 2)
    lse = torch.stack([lse for _, lse in parts], dim=2).flatten(1, 2)
    return out[..., : keys.v.shape[-1]], lse


def backward(rows: Rows, keys: Keys, call: FlashCall) -> Sums:
    """dq, dk and dv; what the heads of a group add to a key is summed in float32."""
    q, dout, out, lse, _ = rows
    width, groups = max(q.shape[-1], keys.v.shape[-1]), keys.k.shape[2]
    dout, queries, out = (fitted(x.to(q.dtype), width) for x in (dout, q, out))
    k, v = (fitted(x, width).transpose(1, 2) for x in keys)
    causal, mask = _mask(call, q, keys.k)
    heads = (dout, queries, out, lse.transpose(1, 2))
    split = (_one_head_of_each_group(x, groups) for x in heads)
    shares = [
        _ops._scaled_dot_product_flash_attention_for_cpu_backward(
            do, own, k, v, o, stats, 0.0, causal, attn_mask=mask,
            scale=call.score.softmax_scale,
        )
        for do, own, o, stats in zip(*split, strict=True)
    ]  # fmt: skip
    dq = torch.stack([share[0] for share in shares], dim=2).flatten(1, 2).transpose(1, 2)
    wide = torch.promote_types(q.dtype, torch.float32)
    nothing = torch.zeros((), device=q.device)
    dk, dv = (sum((share[i].to(wide) for share in shares), nothing) for i in (1, 2))
    return cropped((dq, dk.transpose(1, 2), dv.transpose(1, 2)), keys)


def _mask(call: FlashCall, q: Tensor, k: Tensor) -> tuple[bool, Tensor | None]:
    """Whether its own causal mask, which begins at the top left, will do; else one to add.

    The latter only beside a GPU, whose kernel takes windows: elsewhere, `forms` has none.
    """
    rows, keys = q.shape[1], k.shape[1]
    if not call.has_window and (rows == keys or not call.is_causal):
        return call.is_causal, None
    distance = torch.arange(keys, device=q.device)
    distance = distance - torch.arange(keys - rows, keys, device=q.device)[:, None]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if call.left is not None:
        hidden |= distance < -call.left
    if call.right is not None:
        hidden |= distance > call.right
    mask = torch.zeros(rows, keys, dtype=q.dtype, device=q.device)
    return False, mask.masked_fill(hidden, float("-inf"))


def _one_head_of_each_group(x: Tensor, groups: int) -> list[Tensor]:
    """Heads first: the kernel wants as many query heads as key heads, and keys cost memory."""
    group_size = x.shape[2] // groups
    return [x[:, :, first::group_size].transpose(1, 2) for first in range(group_size)]
