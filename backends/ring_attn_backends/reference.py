"""The specification: attention inside a block in plain torch, by global position, any dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_bench.block import Alibi, Block, Form
from ring_attn_bench.dropout import keep
from ring_attn_bench.positions import Spans
from ring_attn_bench.problem import Problem, Score
from ring_attn_bench.tensors import Keys, Rows, Sums


class ReferenceBackend:
    """Plain torch, any device and dtype: slow, whole score matrices, easy to read."""

    name = "reference"
    forms = frozenset(Form)
    alibi = Alibi.POSITION
    needs_delta = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def unsupported(self, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def version(self) -> str:
        """torch's."""
        return f"torch {torch.__version__}"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """softmax(scores) v and its log-sum-exp, one whole score matrix per head."""
        scores = _Scores(q, keys.k, block, score)
        lse = torch.logsumexp(scores.values, dim=-1)
        p = scores.after_dropout(_probabilities(scores.values, lse))
        out = torch.einsum("bghmn,bnge->bmghe", p, _wide(keys.v))
        return _heads_joined(out).to(q.dtype), _lse_joined(lse)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """The derivative of `forward`, with the whole row's lse and delta."""
        (q, dout, _, lse, delta), (k, v) = rows, keys
        assert delta is not None  # needs_delta
        scores = _Scores(q, k, block, score)
        p = _probabilities(scores.values, _lse_split(lse, k.shape[2]).to(scores.values.dtype))
        do = _wide(_heads_split(dout, k.shape[2]))
        dv = torch.einsum("bghmn,bmghe->bnge", scores.after_dropout(p), do)
        dp = scores.after_dropout(torch.einsum("bmghe,bnge->bghmn", do, _wide(v)))
        ds = p * (dp - _lse_split(delta, k.shape[2]).to(p.dtype)[..., None])
        ds = ds * scores.slope * score.softmax_scale
        dq = torch.einsum("bghmn,bngd->bmghd", ds, _wide(k))
        dk = torch.einsum("bghmn,bmghd->bngd", ds, _wide(_heads_split(q, k.shape[2])))
        return Sums(_heads_joined(dq).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype))


class _Scores:
    """Masked scores of a block, (B, G, H/G, M, N), the softcap's slope and dropout at each."""

    def __init__(self, q: Tensor, k: Tensor, block: Block, score: Score) -> None:
        groups = k.shape[2]
        s = torch.einsum("bmghd,bngd->bghmn", _wide(_heads_split(q, groups)), _wide(k))
        s = s * score.softmax_scale
        self.slope: Tensor | float = 1.0
        if score.softcap > 0:
            tanh = torch.tanh(s / score.softcap)
            s, self.slope = score.softcap * tanh, 1 - tanh**2
        rows, keys = _positions(block.rows, q), _positions(block.keys, q)
        distance = rows[:, None] - keys[None, :]
        if score.alibi_slopes is not None:
            slopes = score.alibi_slopes.to(s.dtype).expand(q.shape[0], q.shape[2])
            slopes = slopes.unflatten(1, (groups, -1))[..., None, None]
            s = s - slopes * distance.abs()
        self.values = s.masked_fill(~allowed(distance, block), float("-inf"))
        self._p, self._kept = score.dropout_p, None
        if self._p:
            batch, heads = q.shape[0], q.shape[2]
            kept = keep(score.dropout_seed, self._p, batch, heads, rows, keys)
            self._kept = kept.unflatten(1, (groups, -1))

    def after_dropout(self, x: Tensor) -> Tensor:
        """Weights, or the gradients that come back to them, as dropout hands them on."""
        return x if self._kept is None else torch.where(self._kept, x / (1 - self._p), 0.0)


def allowed(distance: Tensor, block: Block) -> Tensor:
    """Where the block's band allows the distances query - key."""
    inside = torch.ones_like(distance, dtype=torch.bool)
    if block.band.low is not None:
        inside &= distance >= block.band.low
    if block.band.high is not None:
        inside &= distance <= block.band.high
    return inside


def _probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    # a row that sees nothing has lse -inf: exp(-inf - 0) is the 0 that it should be
    return torch.exp(scores - torch.where(lse.isneginf(), 0.0, lse)[..., None])


def _positions(spans: Spans, like: Tensor) -> Tensor:
    return torch.cat([torch.arange(s.start, s.last + 1, s.step, device=like.device) for s in spans])


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _heads_split(x: Tensor, groups: int) -> Tensor:
    split: Tensor = x.unflatten(2, (groups, -1))
    return split


def _heads_joined(x: Tensor) -> Tensor:
    return x.flatten(2, 3)


def _lse_split(lse: Tensor, groups: int) -> Tensor:
    split: Tensor = lse.unflatten(1, (groups, -1))
    return split


def _lse_joined(lse: Tensor) -> Tensor:
    return lse.flatten(1, 2)
