"""A kernel that takes the keys of many ranks in one launch, by plain torch and a dense mask."""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.gathered import OWN, Gathered
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.registry import backend_class


class Dense(backend_class("reference")):
    """`backend.GatheringBackend` of few tokens: no kernel of its own waits for anything."""

    def gathered_forward(
        self, q: Tensor, keys: Gathering, where: Gathered, score: Score
    ) -> tuple[Tensor, Tensor]:
        s = _scores(q, keys, where, score)
        lse = s.logsumexp(-1)
        return _out(s, lse, _both(keys)[1], q.shape[2]).to(q.dtype), lse

    def gathered_dkdv(
        self, rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
        *, own_first: bool,
    ) -> None:  # fmt: skip
        _, *both = _gradients(rows, keys, where, score)
        for gradient, mine, theirs in zip(both, own, landed, strict=True):
            mine.copy_(gradient[:, : mine.shape[1]])
            theirs.copy_(gradient[:, mine.shape[1] :])

    def gathered_dq(self, rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
        return _gradients(rows, keys, where, score)[0].to(rows.q.dtype)


def _both(keys: Gathering) -> tuple[Tensor, Tensor]:
    k, v = (torch.cat(pair, 1) for pair in zip(keys.own, keys.landed, strict=True))
    return k, v


def _scores(q: Tensor, keys: Gathering, where: Gathered, score: Score) -> Tensor:
    k = _both(keys)[0]
    own, tokens = keys.own.k.shape[1], k.shape[1]
    seen = torch.zeros(q.shape[1], tokens, dtype=torch.bool)
    for line in where.rows:
        for visit in line.visits:
            start = 0 if visit.piece == OWN else own
            for row in range(line.tokens.start, line.tokens.stop):
                for key in range(visit.tokens.start, visit.tokens.stop):
                    seen[row, start + key] |= visit.band.allows(row - key)
    k = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    s = torch.einsum("bihd,bjhd->bhij", q, k) * score.softmax_scale
    return s.masked_fill(~seen, float("-inf"))


def _out(s: Tensor, lse: Tensor, v: Tensor, heads: int) -> Tensor:
    p = (s - lse[..., None]).exp()
    return torch.einsum("bhij,bjhd->bihd", p, v.repeat_interleave(heads // v.shape[2], 2))


def _gradients(
    rows: Rows, keys: Gathering, where: Gathered, score: Score
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv, of own keys and then of landed ones."""
    q, heads = rows.q, rows.q.shape[2]
    k, v = _both(keys)
    group = heads // k.shape[2]
    wide_k, wide_v = (x.repeat_interleave(group, 2) for x in (k, v))
    s = _scores(q, keys, where, score)
    p = (s - rows.lse[..., None]).exp()
    dp = torch.einsum("bihd,bjhd->bhij", rows.dout, wide_v)
    delta = (rows.dout * rows.out).sum(-1).transpose(1, 2)
    ds = p * (dp - delta[..., None]) * score.softmax_scale
    dq = torch.einsum("bhij,bjhd->bihd", ds, wide_k)
    dk = torch.einsum("bhij,bihd->bjhd", ds, q)
    dv = torch.einsum("bhij,bihd->bjhd", p, rows.dout)
    return dq, *(x.unflatten(2, (-1, group)).sum(3) for x in (dk, dv))
