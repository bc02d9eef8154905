"""The gradient of lse by kernels that compute a delta of their own, and so cannot be told dlse.

ds = p * (dp - delta + dlse): what dlse adds is the backward of an attention whose v is 1 in one
column, dout dlse there, and out 0: then dp is dlse and delta 0. So these kernels run twice, on
inputs of the same shapes, and what they refuse they refuse as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.problem import Score

Backward = Callable[[Rows, Keys, Score], Sums]
"""A kernel's backward over some rows and keys."""


def with_lse(backward: Backward, rows: Rows, keys: Keys, score: Score, dlse: Tensor | None) -> Sums:
    """The kernel's dq, dk, dv and, if there is one, dlse's share of dq and dk.

    dlse (B, H, M), or (H, T) of packed documents, in lse's dtype.
    """
    sums = backward(rows, keys, score)
    if dlse is None or not dlse.numel() or not keys.k.numel():
        return sums
    scale = _largest(dlse)
    # lse knows nothing of dropout
    undropped = replace(score, dropout_p=0.0) if score.dropout_p else score
    share = backward(*_as_attention(rows, keys, dlse / scale), undropped)
    wide = dlse.dtype
    return Sums(sums.dq + share.dq.to(wide) * scale, sums.dk + share.dk.to(wide) * scale, sums.dv)


def _largest(dlse: Tensor) -> Tensor:
    """The size of the largest element, so that float16 holds what is divided by it."""
    largest = dlse.abs().amax()
    return torch.where(largest > 0, largest, 1.0)


def _as_attention(rows: Rows, keys: Keys, dlse: Tensor) -> tuple[Rows, Keys]:
    """dlse in two columns, what the first rounds off in the second: 16 bits of it in bfloat16."""
    dlse = dlse.transpose(-1, -2)  # (B, M, H), or (T, H)
    dout, v = torch.zeros_like(rows.dout), torch.zeros_like(keys.v)
    for column in range(min(2, v.shape[-1])):
        dout[..., column] = dlse
        v[..., column] = 1.0
        dlse = dlse - dout[..., column]
    return rows._replace(dout=dout, out=torch.zeros_like(rows.out)), keys._replace(v=v)
