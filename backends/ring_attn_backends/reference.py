"""The specification: attention inside a block in plain torch, by global position, any dtype.

Also of one launch over the keys of many ranks, which is a block over all of them in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_backends.shared.cache import appended, keys_of, lengths_of
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.contract.dropout import keep
from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Sums
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.gathered import OWN, Gathered, Visitors
from ring_attn_bench.plan.positions import Band, Spans
from ring_attn_bench.plan.problem import Problem, Score


class ReferenceBackend:
    """Plain torch, any device and dtype: slow, whole score matrices, easy to read."""

    name = "reference"
    forms = frozenset(Form)
    alibi = Alibi.POSITION
    needs_delta = True
    drops_by_position = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def unsupported(self, problem: Problem) -> str | None:
        """None: it computes everything."""
        return None

    def version(self) -> str:
        """The version of torch."""
        return f"torch {torch.__version__}"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """softmax(scores) v and its log-sum-exp, one whole score matrix per head."""
        return _forward(q, keys, _Pairs.of_block(block, q.device), score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """The derivative of `forward`, with the whole row's lse and delta."""
        dq, dk, dv = _backward(rows, keys, _Pairs.of_block(block, rows.q.device), score)
        return Sums(dq.to(rows.q.dtype), dk.to(keys.k.dtype), dv.to(keys.v.dtype))

    def gathered_forward(
        self, q: Tensor, keys: Gathering, where: Gathered, score: Score
    ) -> tuple[Tensor, Tensor]:
        """`forward` of own and landed keys in a row, when all have landed."""
        lost = _await(keys, where)
        pairs = _Pairs.of_lines(where.rows, where, keys, q)
        out, lse = _forward(q, _in_a_row(keys), pairs, score)
        return (out * torch.nan, lse * torch.nan) if lost else (out, lse)

    def gathered_dkdv(
        self, rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
        *, own_first: bool,
    ) -> None:  # fmt: skip
        """dk and dv of `backward`, each to its place; what sees what as the lines of keys say."""
        lost = _await(keys, where)
        pairs = _Pairs.of_lines(where.keys, where, keys, rows.q)
        _, *gradients = _backward(rows, _in_a_row(keys), pairs, score)
        for gradient, to_own, to_landed in zip(gradients, own, landed, strict=True):
            mine = to_own.shape[1]
            to_own.copy_(gradient[:, :mine] * (torch.nan if lost else 1))
            to_landed.copy_(gradient[:, mine:] * (torch.nan if lost else 1))

    def gathered_dq(self, rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
        """dq of `backward`."""
        lost = _await(keys, where)
        pairs = _Pairs.of_lines(where.rows, where, keys, rows.q)
        dq, _, _ = _backward(rows, _in_a_row(keys), pairs, score)
        return dq.to(rows.q.dtype) * (torch.nan if lost else 1)

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """None: it computes everything."""
        return None

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """`forward` of each entry's queries over the whole of its row, or of its pages."""
        q, cache, new = call.q, call.cache, call.appended
        if new is not None:
            q = appended(q, new, cache)
        wide = torch.promote_types(q.dtype, torch.float32)
        out = q.new_zeros(*q.shape[:-1], cache.v.shape[-1], dtype=wide if call.wide else q.dtype)
        packed = call.starts is not None
        lse = torch.full(_lse_shape(q), float("-inf"), dtype=wide, device=q.device)
        starts = [0] if call.starts is None else call.starts.tolist()
        entries = len(starts) - 1 if packed else len(q)
        totals = lengths_of(cache, entries) + (0 if new is None else new.k.shape[1])
        for entry in range(entries):
            at = slice(starts[entry], starts[entry + 1]) if packed else slice(entry, entry + 1)
            rows = q[at][None] if packed else q[at]
            keys, stand, exists = keys_of(cache, entry)
            pairs = _Pairs.of_entry(rows.shape[1], stand, exists, int(totals[entry]), call, entry)
            score = call.score
            if score.alibi_slopes is not None and score.alibi_slopes.ndim == 2:
                score = replace(score, alibi_slopes=score.alibi_slopes[entry : entry + 1])
            # what lies where no token is may be anything
            there = pairs.allowed.any(0)[None, :, None, None]
            keys = Keys(*(x.masked_fill(~there, 0.0) for x in keys))
            some_out, some_lse = _forward(rows.to(out.dtype), keys, pairs, score)
            if packed:
                out[at], lse[:, at] = some_out[0], some_lse[0]
            else:
                out[at], lse[at] = some_out, some_lse
        return out, lse


def _lse_shape(q: Tensor) -> tuple[int, ...]:
    return (q.shape[1], q.shape[0]) if q.ndim == 3 else (q.shape[0], q.shape[2], q.shape[1])


@dataclass(frozen=True)
class _Pairs:
    """Global positions of rows (M,) and keys (N,), and which row may see which key (M, N)."""

    rows: Tensor
    keys: Tensor
    allowed: Tensor

    @classmethod
    def of_block(cls, block: Block, device: torch.device) -> _Pairs:
        rows, keys = _positions(block.rows, device), _positions(block.keys, device)
        return cls(rows, keys, allowed(rows[:, None] - keys[None, :], block))

    @classmethod
    def of_entry(
        cls, rows: int, keys: Tensor, exists: Tensor, total: int, call: CachedCall, entry: int
    ) -> _Pairs:
        """Queries at the end of an entry's total over the places of its row, or pages."""
        skipped = call.cache.skipped
        places = torch.arange(total - rows, total, device=keys.device)
        exists = exists & (keys < total)
        if skipped is not None:
            exists &= keys >= skipped[entry]
        seen = _within(places[:, None] - keys[None, :], call.mask.band)
        return cls(places, keys, seen & exists)

    @classmethod
    def of_lines(
        cls, visitors: Iterable[Visitors], where: Gathered, keys: Gathering, q: Tensor
    ) -> _Pairs:
        """What the lines of one side visit of the other, the landed keys counted behind own ones.

        Positions are those of both sides' lines, of whatever is seen at all.
        """
        own, landed = keys.own.k.shape[1], keys.landed.k.shape[1]
        sizes = q.shape[1], own + landed
        rows, columns = (torch.zeros(n, dtype=torch.long, device="cpu") for n in sizes)
        seen = torch.zeros(sizes, dtype=torch.bool, device="cpu")

        def first(piece: int) -> int:
            return 0 if piece == OWN else own

        for lines, positions in ((where.rows, rows), (where.keys, columns)):
            for line in lines:
                start = line.tokens.start + (first(line.piece) if line.of_keys else 0)
                steps = torch.arange(len(line.tokens), device="cpu")
                positions[start : start + len(steps)] = line.start + where.step * steps
        for line in visitors:
            for visit in line.visits:
                row, key = (visit, line) if line.of_keys else (line, visit)
                at_row, at_key = (
                    torch.arange(x.tokens.start, x.tokens.stop, device="cpu") for x in (row, key)
                )
                inside = _within(at_row[:, None] - at_key[None, :], visit.band)
                seen[at_row[:, None], first(key.piece) + at_key] |= inside
        return cls(*(x.to(q.device) for x in (rows, columns, seen)))


def _await(keys: Gathering, where: Gathered) -> bool:
    """Returns when all keys have landed, which on a CPU they have: or, true, when they never will.

    A kernel that waits would go on with what is there; here the host waits, and asks for all.
    """
    while keys.arrived is not None:
        lost, *there = keys.arrived[: 1 + where.pieces * keys.head_groups].tolist()
        if lost or all(there):
            return bool(lost)
    return False


def _in_a_row(keys: Gathering) -> Keys:
    return Keys(*(torch.cat(both, 1) for both in zip(keys.own, keys.landed, strict=True)))


def _forward(q: Tensor, keys: Keys, pairs: _Pairs, score: Score) -> tuple[Tensor, Tensor]:
    scores = _Scores(q, keys.k, pairs, score)
    lse = torch.logsumexp(scores.values, dim=-1)
    p = scores.after_dropout(_probabilities(scores.values, lse))
    out = torch.einsum("bghmn,bnge->bmghe", p, _wide(keys.v))
    return _heads_joined(out).to(q.dtype), _lse_joined(lse)


def _backward(rows: Rows, keys: Keys, pairs: _Pairs, score: Score) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv as wide as they were computed."""
    (q, dout, _, lse, delta), (k, v) = rows, keys
    assert delta is not None  # needs_delta
    scores = _Scores(q, k, pairs, score)
    p = _probabilities(scores.values, _lse_split(lse, k.shape[2]).to(scores.values.dtype))
    do = _wide(_heads_split(dout, k.shape[2]))
    dv = torch.einsum("bghmn,bmghe->bnge", scores.after_dropout(p), do)
    dp = scores.after_dropout(torch.einsum("bmghe,bnge->bghmn", do, _wide(v)))
    ds = p * (dp - _lse_split(delta, k.shape[2]).to(p.dtype)[..., None])
    ds = ds * scores.slope * score.softmax_scale
    dq = torch.einsum("bghmn,bngd->bmghd", ds, _wide(k))
    dk = torch.einsum("bghmn,bmghd->bngd", ds, _wide(_heads_split(q, k.shape[2])))
    return _heads_joined(dq), dk, dv


class _Scores:
    """Masked scores of pairs, (B, G, H/G, M, N), the softcap's slope and dropout at each."""

    def __init__(self, q: Tensor, k: Tensor, pairs: _Pairs, score: Score) -> None:
        groups = k.shape[2]
        s = torch.einsum("bmghd,bngd->bghmn", _wide(_heads_split(q, groups)), _wide(k))
        s = s * score.softmax_scale
        self.slope: Tensor | float = 1.0
        if score.softcap > 0:
            tanh = torch.tanh(s / score.softcap)
            s, self.slope = score.softcap * tanh, 1 - tanh**2
        if score.alibi_slopes is not None:
            distance = pairs.rows[:, None] - pairs.keys[None, :]
            slopes = score.alibi_slopes.to(s.dtype).expand(q.shape[0], q.shape[2])
            slopes = slopes.unflatten(1, (groups, -1))[..., None, None]
            s = s - slopes * distance.abs()
        self.values = s.masked_fill(~pairs.allowed, float("-inf"))
        self._p, self._kept = score.dropout_p, None
        if self._p:
            batch, heads = q.shape[0], q.shape[2]
            kept = keep(score.dropout_seed, self._p, batch, heads, pairs.rows, pairs.keys)
            self._kept = kept.unflatten(1, (groups, -1))

    def after_dropout(self, x: Tensor) -> Tensor:
        """Weights, or the gradients that come back to them, as dropout hands them on."""
        return x if self._kept is None else torch.where(self._kept, x / (1 - self._p), 0.0)


def allowed(distance: Tensor, block: Block) -> Tensor:
    """Where the block's band allows the distances query - key."""
    return _within(distance, block.band)


def _within(distance: Tensor, band: Band) -> Tensor:
    inside = torch.ones_like(distance, dtype=torch.bool)
    if band.low is not None:
        inside &= distance >= band.low
    if band.high is not None:
        inside &= distance <= band.high
    return inside


def _probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    # a row that sees nothing has lse -inf: exp(-inf - 0) is the 0 that it should be
    return torch.exp(scores - torch.where(lse.isneginf(), 0.0, lse)[..., None])


def _positions(spans: Spans, device: torch.device) -> Tensor:
    return torch.cat([torch.arange(s.start, s.last + 1, s.step, device=device) for s in spans])


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
