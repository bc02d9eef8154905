"""Attention of one document in plain float32, as the fakes compute it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """q (M, H, D), k (N, G, D); seen (M, N); bias (H, M, N) or 0; kept (H, M, N) or None."""

    q: Tensor
    k: Tensor
    seen: Tensor
    scale: float
    softcap: float = 0.0
    bias: Tensor | float = 0.0
    kept: Tensor | None = None
    dropout_p: float = 0.0

    def values(self):
        """Masked scores and the softcap's slope."""
        k = spread(self.k, self.q.shape[1])
        s = torch.einsum("mhd,nhd->hmn", self.q.float(), k.float()) * self.scale
        slope = torch.ones_like(s)
        if self.softcap:
            tanh = torch.tanh(s / self.softcap)
            s, slope = self.softcap * tanh, 1 - tanh**2
        return (s + self.bias).masked_fill(~self.seen, float("-inf")), slope

    def dropped(self, weights):
        if self.kept is None:
            return weights
        return torch.where(self.kept, weights / (1 - self.dropout_p), 0.0)

    def forward(self, v, no_key: float):
        """out (M, H, E), and lse (H, M) with `no_key` for a row that sees nothing."""
        s, _ = self.values()
        lse = torch.logsumexp(s, -1) if s.shape[-1] else s.new_full(s.shape[:2], float("-inf"))
        p = self.dropped(torch.exp(s - lse.nan_to_num(neginf=0.0)[..., None]))
        out = torch.einsum("hmn,nhe->mhe", p, spread(v, self.q.shape[1]).float())
        return out, lse.masked_fill(lse.isneginf(), no_key)

    def backward(self, dout, v, out, lse):
        """dq (M, H, D), and dk (N, H, D), dv (N, H, E) for every query head."""
        heads = self.q.shape[1]
        s, slope = self.values()
        # a row without a key has -inf scores: their weight is 0 with an lse of either infinity
        p = torch.exp(s - lse.masked_fill(lse.isinf(), 0.0)[..., None])
        delta = (dout.float() * out.float()).sum(-1).T
        dv = torch.einsum("hmn,mhe->nhe", self.dropped(p), dout.float())
        dp = torch.einsum("mhe,nhe->hmn", dout.float(), spread(v, heads).float())
        ds = p * (self.dropped(dp) - delta[..., None]) * slope * self.scale
        dq = torch.einsum("hmn,nhd->mhd", ds, spread(self.k, heads).float())
        dk = torch.einsum("hmn,mhd->nhd", ds, self.q.float())
        return dq, dk, dv


def spread(x, heads: int):
    """A key head for each query head."""
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def summed(gradient, key_heads: int):
    """What the query heads of a group add to their key head."""
    return gradient.unflatten(1, (key_heads, -1)).sum(2)


def positions(rows: int, keys: int):
    """i + N - M and j: the last row and the last key at one place."""
    return torch.arange(rows)[:, None] + keys - rows, torch.arange(keys)[None, :]


def band(rows: int, keys: int, left: int | None, right: int | None):
    """(M, N): which keys are at most `left` before a row and `right` after it."""
    i, j = positions(rows, keys)
    seen = torch.ones(rows, keys, dtype=torch.bool)
    if left is not None:
        seen &= j >= i - left
    if right is not None:
        seen &= j <= i + right
    return seen


def documents(x_q, x_k, cu_seqlens_q, cu_seqlens_k):
    """Slices of each document's queries and keys; of dense tensors, their batch entries'."""
    if cu_seqlens_q is None:
        return [(entry, entry) for entry in range(x_q.shape[0])]
    sides = (cu_seqlens_q.tolist(), cu_seqlens_k.tolist())
    return [
        (slice(q0, q1), slice(k0, k1))
        for q0, q1, k0, k1 in zip(
            sides[0][:-1], sides[0][1:], sides[1][:-1], sides[1][1:], strict=True
        )
    ]


def by_pointer(x, shape):
    """What a kernel reads at x's address that takes x for contiguous."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return x.as_strided(shape, strides)


def check_addresses(*tensors):
    """A kernel loads 16 bytes at a time; rows that begin elsewhere end its process."""
    for x in tensors:
        strides = [s for s, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1]
        where = [x.data_ptr(), *(s * x.element_size() for s in strides)]
        if any(at % 16 for at in where):
            raise AssertionError("CUDA error: misaligned address")
        assert x.stride(-1) == 1, "Input tensor must have contiguous last dimension"
