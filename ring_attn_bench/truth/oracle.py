"""The truth that results are judged by: attention and its gradients in float64, by blocks of rows.

The same code with `arithmetic` set to the inputs' dtype is the yardstick beside it: what plain
PyTorch makes of the question in that precision. Every matrix that eager code would write (the
products, the scaled scores, the probabilities, dP and dS) is rounded to the dtype, every sum runs
in float32 as in a matrix unit, and dk and dv are rounded once, however many blocks they came from.

Shapes: B batch, R rows (queries, any subset of the sequence), N keys, H query heads, G key heads.
Rows and keys say where they are by global positions, one int64 tensor each, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Mask, Score

DEFAULT_BUDGET = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is asked of rows (R) and keys (N) at these positions, and how it is computed.

    keep: (B, H, R, N), which weights dropout keeps; given if and only if there is dropout.
    arithmetic: the dtype that matrices, and results, are rounded to.
    in_order: sums over the head dim run from its first element to its last, as in a kernel whose
        thread multiplies and adds; otherwise as torch's matmul pleases.
    budget: bytes that one block of scores may take; half a dozen such blocks live at a time.
    """

    q_positions: Tensor
    k_positions: Tensor
    mask: Mask
    score: Score
    keep: Tensor | None = None
    arithmetic: torch.dtype = torch.float64
    in_order: bool = False
    budget: int = DEFAULT_BUDGET


def forward(q: Tensor, k: Tensor, v: Tensor, asked: Inquiry) -> tuple[Tensor, Tensor]:
    """out (B, R, H, E) in the arithmetic asked for, and lse (B, H, R), natural log.

    lse is float64, or float32 of scores that were not rounded on the way: a kernel's lse never
    passes through the input dtype, so a rounded one would be too kind a yardstick.
    A row that sees no key has out 0 and lse -inf.
    """
    exact, dropout = _Arithmetic(asked.arithmetic, asked.in_order), _Dropout.of(asked)
    out = q.new_empty(*q.shape[:3], v.shape[3], dtype=asked.arithmetic)
    lse = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=exact.wide)
    for tile in _tiles(q, k, asked, exact.wide):
        s, _ = _scores(tile, q, k, asked.score, exact)
        p = exact.rounded(_normalised(s, torch.logsumexp(s, dim=-1)))
        p = dropout.of_tile(tile, p, exact)
        product = p @ exact.rounded(v[tile.batch, :, tile.key_head])
        out[tile.batch, tile.rows, tile.heads] = product.transpose(0, 1).to(asked.arithmetic)
        if exact.rounds:
            s, _ = _scores(tile, q, k, asked.score, _Arithmetic(exact.wide, asked.in_order))
        lse[tile.batch, tile.heads, tile.rows] = torch.logsumexp(s, dim=-1)
    return out, lse


def backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, asked: Inquiry
) -> tuple[Tensor, Tensor, Tensor]:
    """dq (B, R, H, D) of these rows, and their share of dk (B, N, G, D) and dv (B, N, G, E).

    out and lse are those of the rows over all keys of the sequence, whichever keys are given. If
    dout is zero in every other row, the share of these rows is the whole of dk and dv: so a few
    sampled rows check every key of a long sequence.
    """
    exact, dropout = _Arithmetic(asked.arithmetic, asked.in_order), _Dropout.of(asked)
    dq = q.new_empty(q.shape, dtype=asked.arithmetic)
    dk = torch.zeros_like(k, dtype=exact.wide)
    dv = torch.zeros_like(v, dtype=exact.wide)
    for tile in _tiles(q, k, asked, exact.wide):
        query, do = tile.queries(q, exact), tile.queries(dout, exact)
        delta = (do * tile.queries(out, exact)).sum(-1, keepdim=True)
        s, slope = _scores(tile, q, k, asked.score, exact)
        p = exact.rounded(_normalised(s, lse[tile.batch, tile.heads, tile.rows].to(s.dtype)))
        dp = exact.rounded(exact.products(do, v[tile.batch, :, tile.key_head]))
        dp = dropout.of_tile(tile, dp, exact)
        ds = exact.rounded(p * (dp - delta)) * slope
        ds = exact.rounded(ds * asked.score.softmax_scale)
        product = ds @ exact.rounded(k[tile.batch, :, tile.key_head])
        dq[tile.batch, tile.rows, tile.heads] = product.transpose(0, 1).to(asked.arithmetic)
        dk[tile.batch, :, tile.key_head] += ds.flatten(0, 1).T @ query.flatten(0, 1)
        weights = dropout.of_tile(tile, p, exact)
        dv[tile.batch, :, tile.key_head] += weights.flatten(0, 1).T @ do.flatten(0, 1)
    return dq, dk.to(asked.arithmetic), dv.to(asked.arithmetic)


def sample_rows(seqlen: int, rows: int, boundaries: Sequence[int], seed: int) -> Tensor:
    """Sorted positions of `rows` rows of a sequence, more if the ones that must be in are more.

    boundaries: positions where chunks begin; faults of a partition sit there. In are always the
    rows on both sides of each, and the first and the last row; the rest is random.
    """
    edges = {0, seqlen - 1, *boundaries, *(start - 1 for start in boundaries)}
    fixed = torch.tensor(
        sorted(edge for edge in edges if 0 <= edge < seqlen), dtype=torch.int64, device="cpu"
    )
    free = torch.ones(seqlen, dtype=torch.bool, device="cpu")
    free[fixed] = False
    others = free.nonzero().flatten()
    shuffled = torch.randperm(
        len(others), generator=torch.Generator().manual_seed(seed), device="cpu"
    )
    drawn = others[shuffled[: max(0, rows - len(fixed))]]
    return torch.cat([fixed, drawn]).sort().values


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    """The dtype that matrices are rounded to, and the wider one that sums run in."""

    to: torch.dtype
    in_order: bool = False

    @property
    def wide(self) -> torch.dtype:
        return torch.float64 if self.to is torch.float64 else torch.float32

    @property
    def rounds(self) -> bool:
        return self.to is not self.wide

    def rounded(self, x: Tensor) -> Tensor:
        """A matrix as eager code in this arithmetic would have written it."""
        return x.to(self.to).to(self.wide)

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the rows of x (H, M, D), which is rounded, with those of y (N, D)."""
        y = self.rounded(y)
        if not self.in_order:
            return x @ y.T
        total = x.new_zeros(*x.shape[:2], len(y))
        for column in range(y.shape[1]):
            total += x[..., column, None] * y[:, column]
        return total


@dataclass(frozen=True, slots=True)
class _Tile:
    """Some rows of all query heads that read one key head, in one batch entry.

    distance: (rows, N), position of the row less position of the key; allowed: where it may see it.
    """

    batch: int
    key_head: int
    heads: slice
    rows: slice
    distance: Tensor
    allowed: Tensor

    def queries(self, x: Tensor, exact: _Arithmetic) -> Tensor:
        """The tile's part of a tensor like q, heads first."""
        return exact.rounded(x[self.batch, self.rows, self.heads]).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class _Dropout:
    """What becomes of weights, and of their gradients, at (B, H, R, N)."""

    keep: Tensor | None
    p: float

    @classmethod
    def of(cls, asked: Inquiry) -> _Dropout:
        p = asked.score.dropout_p
        if (asked.keep is not None) != (p > 0):
            raise InvalidArgument(
                f"the oracle draws no weights: with dropout_p {p} it is "
                f"{'given' if p else 'not given'} those to keep."
            )
        return cls(asked.keep, p)

    def of_tile(self, tile: _Tile, x: Tensor, exact: _Arithmetic) -> Tensor:
        """Dropped, or scaled by 1 / (1 - p)."""
        if self.keep is None:
            return x
        kept = self.keep[tile.batch, tile.heads, tile.rows]
        return exact.rounded(torch.where(kept, x / (1 - self.p), 0.0))


def _tiles(q: Tensor, k: Tensor, asked: Inquiry, wide: torch.dtype) -> Iterator[_Tile]:
    batch, rows, heads, _ = q.shape
    keys, key_heads = k.shape[1:3]
    group = heads // key_heads
    step = max(1, asked.budget // (group * max(1, keys) * wide.itemsize))
    q_positions, k_positions = asked.q_positions.to(q.device), asked.k_positions.to(q.device)
    for start in range(0, rows, step):
        inside = slice(start, start + step)
        distance = q_positions[inside, None] - k_positions[None, :]
        allowed = allowed_at(distance, asked.mask.band)
        for b in range(batch):
            for head in range(key_heads):
                readers = slice(head * group, (head + 1) * group)
                yield _Tile(b, head, readers, inside, distance, allowed)


def allowed_at(distance: Tensor, band: Band) -> Tensor:
    """Where a band allows these distances, query position minus key position; bool, as shaped."""
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if band.low is not None:
        allowed &= distance >= band.low
    if band.high is not None:
        allowed &= distance <= band.high
    return allowed


def _scores(
    tile: _Tile, q: Tensor, k: Tensor, score: Score, exact: _Arithmetic
) -> tuple[Tensor, Tensor | float]:
    """Masked scores (heads, rows, N), and the softcap's slope at each.

    A bias by position goes in before the one rounding: positions themselves do not fit into 16
    bits, and no eager code would form them there.
    """
    product = exact.rounded(exact.products(tile.queries(q, exact), k[tile.batch, :, tile.key_head]))
    s = exact.rounded(product * score.softmax_scale)
    slope: Tensor | float = 1.0
    if score.softcap > 0:
        tanh = exact.rounded(torch.tanh(exact.rounded(s / score.softcap)))
        s, slope = exact.rounded(score.softcap * tanh), exact.rounded(1 - tanh**2)
    if score.alibi_slopes is not None:
        slopes = score.alibi_slopes.to(s.dtype).expand(q.shape[0], q.shape[2])
        bias = slopes[tile.batch, tile.heads, None, None] * tile.distance.abs()
        s = exact.rounded(s - bias)
    return s.masked_fill(~tile.allowed, float("-inf")), slope


def _normalised(s: Tensor, lse: Tensor) -> Tensor:
    # a row that sees nothing has lse -inf: exp(-inf - 0) is the 0 that it should be
    return torch.exp(s - torch.where(lse.isneginf(), 0.0, lse)[..., None])
