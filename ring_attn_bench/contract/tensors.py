"""The contract's tensors in groups, each of which is cut along its tokens; shapes as in `backend`.

Tokens are the dim before heads and columns, in a block (B, tokens, heads, dim) as in packed
documents (tokens, heads, dim), and the last dim of lse and delta: one cut serves both. Tuples,
because a frozen dataclass takes the host four times as long to make.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.plan.positions import Range


def part_of(x: Tensor, tokens: Range, dim: int = -3) -> Tensor:
    """A view of those tokens; x itself where they are all of them, which spares the host a view."""
    start = tokens.start
    count = tokens.stop - start
    return x if count == x.shape[dim] else x.narrow(dim, start, max(0, count))


class Keys(NamedTuple):
    """k (B, N, G, D) and v (B, N, G, E)."""

    k: Tensor
    v: Tensor

    def part(self, tokens: Range) -> Keys:
        """Views of those keys."""
        if tokens.stop - tokens.start == self.k.shape[-3]:
            return self
        return Keys(part_of(self.k, tokens), part_of(self.v, tokens))


class Gathering(NamedTuple):
    """Keys of several ranks for one launch: own (B, N, G, .) and, piece behind piece, landed ones.

    arrived: int32 (1 + pieces * head_groups,) on their device, or None where all have landed. Word
    1 + (n - 1) * head_groups + h becomes 1 when of piece n the h-th group of heads has landed, the
    heads of all batch entries counted through; no kernel writes it. Word 0 becomes another number
    than 0 when what has not landed never will: a kernel then stops waiting, and writes NaN.
    """

    own: Keys
    landed: Keys
    arrived: Tensor | None = None
    head_groups: int = 1


class Rows(NamedTuple):
    """What a backward reads of queries: q (B, M, H, D), dout and out (B, M, H, E), in one dtype.

    lse and delta (B, H, M), float32 (float64 for float64 inputs); delta, the sum over E of
    dout * out, is None for a backend that does not need it.
    """

    q: Tensor
    dout: Tensor
    out: Tensor
    lse: Tensor
    delta: Tensor | None = None

    def part(self, tokens: Range) -> Rows:
        """Views of those rows."""
        q, dout, out, lse, delta = self
        if tokens.stop - tokens.start == q.shape[-3]:
            return self
        return Rows(
            part_of(q, tokens), part_of(dout, tokens), part_of(out, tokens),
            part_of(lse, tokens, -1), None if delta is None else part_of(delta, tokens, -1),
        )  # fmt: skip


class Running(NamedTuple):
    """What a forward that accumulates goes on from, and leaves: out (B, M, H, E), lse (B, H, M).

    Both are float32 (float64 for float64 inputs). target (B, M, H, E): where the merged out goes
    instead, in its dtype; out's content is lost then.
    """

    out: Tensor
    lse: Tensor
    target: Tensor | None = None

    @property
    def result(self) -> Tensor:
        """Where the merged out goes."""
        return self.out if self.target is None else self.target

    def part(self, tokens: Range) -> Running:
        """Views of those rows."""
        out, lse, target = self
        if tokens.stop - tokens.start == out.shape[-3]:
            return self
        return Running(
            part_of(out, tokens), part_of(lse, tokens, -1),
            None if target is None else part_of(target, tokens),
        )  # fmt: skip


Kept: TypeAlias = "tuple[Tensor, ...]"
"""What a forward keeps for its backward, besides inputs and results: other ranks' packed keys, by
step, where they landed."""


class Sums(NamedTuple):
    """dq (B, M, H, D), dk (B, N, G, D) and dv (B, N, G, E): a share of them, or running sums."""

    dq: Tensor
    dk: Tensor
    dv: Tensor

    def part(self, rows: Range, keys: Range) -> Sums:
        """Views: of dq at those rows, of dk and dv at those keys."""
        return Sums(part_of(self.dq, rows), part_of(self.dk, keys), part_of(self.dv, keys))
