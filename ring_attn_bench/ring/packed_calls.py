"""Packed calls of a ring: rows and keys gathered for a kernel that takes documents packed.

What a call reads and where its results belong follows from its `Pack`; that lies on the device as
indices, made once for a batch and found again in every layer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.contract.backend import Backend, PackedBackend
from ring_attn_bench.contract.tensors import Keys, Rows, Sums, part_of
from ring_attn_bench.plan.packs import Pack, Segment
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.plan.problem import Documents, Score


class Turn(NamedTuple):
    """Tokens of a call, none of which is stored twice: at `places` there, at `stored` here."""

    places: Tensor
    stored: Tensor


class Side(NamedTuple):
    """A side of a call: queries, or keys.

    stored: where its tokens are stored, as they lie in the call; a range where that is as it is.
    places: which of its tokens these are, or None where they are all: others stand for nobody.
    tokens: how many there are. turns: of keys that are there more than once, once each.
    """

    stored: Range | Tensor
    places: Tensor | None
    tokens: int
    starts: Tensor
    turns: tuple[Turn, ...] = ()

    def taken(self, x: Tensor, dim: int = 1) -> Tensor:
        """x (1, stored, ...) as it lies in the call, without the batch dim; 0 for nobody."""
        x, dim = x[0], dim - 1
        if isinstance(self.stored, Range):
            return part_of(x, self.stored, dim - x.dim())
        if self.places is None:
            return x.index_select(dim, self.stored)
        shape = [*x.shape]
        shape[dim] = self.tokens
        return x.new_zeros(shape).index_copy_(dim, self.places, x.index_select(dim, self.stored))

    def given(self, x: Tensor, dim: int = 0) -> Tensor:
        """Of what the call gave for its tokens, that of those that are somebody's."""
        return x if self.places is None else x.index_select(dim, self.places)


class Tables(NamedTuple):
    """What a call reads of where its rows and keys are, on a device."""

    rows: Side
    keys: Side


@lru_cache(maxsize=64)
def tables_of(pack: Pack, device: torch.device) -> Tables:
    """A pack's tables: made on the host, which waits for the device once for each batch."""
    rows = [_runs(segment, segment.rows) for segment in pack.segments]
    keys = [_runs(segment, segment.keys) for segment in pack.segments]
    beyond = [segment.beyond for segment in pack.segments]
    return Tables(_side(rows, beyond, device), _side(keys, [0] * len(keys), device))


def forward(
    backend: Backend, pack: Pack, q: Tensor, keys: Keys, score: Score
) -> tuple[Tensor, Tensor]:
    """out (1, rows, H, E) and lse (1, H, rows) of the call's rows, as `Tables` has them stored."""
    tables = tables_of(pack, q.device)
    out, lse = cast("PackedBackend", backend).packed_forward(
        tables.rows.taken(q), _keys(tables, keys), _documents(pack, tables), _score(pack, score)
    )
    return tables.rows.given(out)[None], tables.rows.given(lse, 1)[None]


def backward(
    backend: Backend, pack: Pack, rows: Rows, keys: Keys, score: Score, dlse: Tensor | None,
    *, deterministic: bool,
) -> Sums:  # fmt: skip
    """The call's share of dq, and of dk and dv by its own keys: `add_at` has them where they go."""
    tables = tables_of(pack, rows.q.device)
    mine, documents = tables.rows, _documents(pack, tables)
    q, dout, out, lse, delta = rows
    taken = Rows(
        mine.taken(q), mine.taken(dout), mine.taken(out), mine.taken(lse, 2),
        None if delta is None else mine.taken(delta, 2),
    )  # fmt: skip

    def launched(rows: Rows, keys: Keys, score: Score) -> Sums:
        return cast("PackedBackend", backend).packed_backward(
            rows, keys, documents, score, deterministic=deterministic
        )

    dlse = None if dlse is None else mine.taken(dlse, 2)
    return with_lse(launched, taken, _keys(tables, keys), _score(pack, score), dlse)


def add_at(total: Tensor, side: Side, share: Tensor) -> None:
    """Adds a call's share (tokens, ...) to what is stored (1, stored, ...), in a fixed order."""
    into = total[0]
    if isinstance(side.stored, Range):
        part_of(into, side.stored).add_(share)
        return
    if not side.turns:
        into.index_add_(0, side.stored, side.given(share).to(into.dtype))
    for places, stored in side.turns:
        into.index_add_(0, stored, share.index_select(0, places).to(into.dtype))


def behind(own: Keys, landed: Keys) -> Keys:
    """The landed keys behind the own ones."""
    if not landed.k.shape[1]:
        return own
    return Keys(*(torch.cat(pair, 1) for pair in zip(own, landed, strict=True)))


def _keys(tables: Tables, keys: Keys) -> Keys:
    return Keys(tables.keys.taken(keys.k), tables.keys.taken(keys.v))


def _documents(pack: Pack, tables: Tables) -> Documents:
    return Documents(tables.rows.starts, tables.keys.starts, *pack.longest, pack.mask)


def _score(pack: Pack, score: Score) -> Score:
    """What is dropped in a call is its own; slopes are of the one batch entry that there is."""
    slopes = score.alibi_slopes
    if slopes is not None and slopes.dim() == 2:
        score = replace(score, alibi_slopes=slopes[0])
    if score.dropout_p:
        score = replace(score, dropout_seed=(score.dropout_seed + pack.number) % 2**63)
    return score


class _Run(NamedTuple):
    """Tokens that lie in a row in a call: stored from `first` on, step is 1 or -1."""

    first: int
    length: int
    step: int = 1


def _runs(segment: Segment, tokens: tuple[Range, ...]) -> list[_Run]:
    if segment.backwards:
        return [_Run(x.stop - 1, len(x), -1) for x in reversed(tokens)]
    return [_Run(x.start, len(x)) for x in tokens]


def _side(of_segments: list[list[_Run]], beyond: list[int], device: torch.device) -> Side:
    """beyond: how many tokens each segment has behind those of its runs."""
    counts = [sum(run.length for run in runs) for runs in of_segments]
    ends = [0, *accumulate(count + more for count, more in zip(counts, beyond, strict=True))]
    starts = torch.tensor(ends, dtype=torch.int32, device="cpu").to(device)
    runs = [run for of_one in of_segments for run in of_one]
    whole = _in_a_row(runs)
    if whole is not None and not any(beyond):
        return Side(whole, None, ends[-1], starts)
    stored = _expanded(runs)
    places = None
    if any(beyond):
        inside = [_Run(start, count) for start, count in zip(ends, counts, strict=False)]
        places = _expanded(inside).to(device)
    turns = tuple(Turn(*(x.to(device) for x in turn)) for turn in _turns(stored))
    return Side(stored.to(device), places, ends[-1], starts, turns)


def _expanded(runs: list[_Run]) -> Tensor:
    """The runs' tokens one by one: of thousands of runs, in a few calls."""
    first, length, step = torch.tensor(runs, dtype=torch.int64, device="cpu").T
    before = (length.cumsum(0) - length).repeat_interleave(length)
    within: Tensor = torch.arange(len(before), device="cpu") - before
    found: Tensor = first.repeat_interleave(length) + step.repeat_interleave(length) * within
    return found


def _in_a_row(runs: list[_Run]) -> Range | None:
    """All tokens as one range, where they are stored as they lie in the call."""
    if any(run.step != 1 for run in runs):
        return None
    if any(a.first + a.length != b.first for a, b in pairwise(runs)):
        return None
    return Range(runs[0].first, runs[-1].first + runs[-1].length)


def _turns(stored: Tensor) -> list[Turn]:
    """Tokens that are stored more than once in a call, in turns that have each once; none if not.

    An addition of indices that are all different has one order, whatever the device makes of it.
    """
    order = torch.sort(stored, stable=True)
    if not (order.values[1:] == order.values[:-1]).any():
        return []
    new = torch.ones_like(stored, dtype=torch.bool)
    new[1:] = order.values[1:] != order.values[:-1]
    at = torch.arange(len(stored), device="cpu")
    first = torch.where(new, at, 0).cummax(0).values
    turn = torch.empty_like(stored)
    turn[order.indices] = at - first
    places = [(turn == n).nonzero()[:, 0] for n in range(int(turn.max()) + 1)]
    return [Turn(place, stored[place]) for place in places]
