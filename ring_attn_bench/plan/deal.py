"""Partitions of packed documents: each batch dealt by itself, so that no rank has more work.

A rank's work is the pairs that its rows see, in their own documents. Partitions of one sequence do
not know of documents: of batches of published lengths, dealt by zigzag, the busiest of eight ranks
had 2.2 times the mean, and up to 4.7; by stripes all had as much, and fetched all keys
(`scripts/documents_balance.py`). Two ways, both of as many tokens on every rank:

- `head_tail`: each document as zigzag deals a sequence, in 2 W pieces of which rank r has the r-th
  and the r-th from the end. Even for any mask that is alike from the start and the end; every rank
  has a part of every document.
- `balanced`: the sequence in pieces of one length, whatever the documents are, dealt so that work
  is even: the heaviest first, each to the rank with the least. As few pieces as will do.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import Protocol

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.documents import Starts
from ring_attn_bench.plan.partition import Dealt, OfOneSequence
from ring_attn_bench.plan.positions import Band, Span, Spans

PIECES = (1, 2, 4, 8, 16, 32)
"""Pieces of each rank that `balanced` tries."""
MOST_PIECES = 2**20
"""Of all ranks: they are sorted, a second for these."""
EVEN = 1.01
"""The busiest rank's work over the mean that it stops at: more pieces are more messages."""


class Deal(Protocol):
    """A way to deal the documents that begin at `starts` to ranks of `tokens` each."""

    def __call__(self, starts: Starts, world_size: int, tokens: int, band: Band) -> OfOneSequence:
        """The partition; band: the mask that work is counted by."""
        ...


@dataclass(frozen=True)
class PerDocument(OfOneSequence):
    """Every document dealt to all ranks by itself.

    pieces: of a document for each rank, 2 its head and its tail, or 1. What is left of a document
    that these do not divide, its last tokens, goes to ranks that have room, in the order in which
    it comes; padding is a document like any other.
    """

    starts: Starts
    world_size: int
    local: int
    pieces: int = 2

    @property
    def name(self) -> str:  # type: ignore[override]  # a property is enough
        """`head_tail` or `each_contiguous`."""
        return "head_tail" if self.pieces == 2 else "each_contiguous"

    @property
    def identity(self) -> str:
        """As there: who holds what follows from where documents begin, which ranks compare too."""
        return f"{self.name} {hash((self.starts, self.local))}"

    @cached_property
    def _bounds(self) -> tuple[tuple[int, int], ...]:
        whole = self.world_size * self.local
        return tuple((a, b) for a, b in pairwise((*self.starts, whole)) if a < b)

    def spans_of(self, rank: int) -> Spans:
        """As there."""
        return _spans_of(self, rank)

    def deal_to(self, rank: int) -> Spans:
        """`spans_of`, which is kept: of 1,000 documents this takes 3 ms."""
        unit, ranks = self.pieces * self.world_size, self.world_size
        left = [(stop - (stop - start) % unit, stop) for start, stop in self._bounds]
        room = sum(stop - at for at, stop in left) // ranks
        first, last, before = rank * room, (rank + 1) * room, 0
        found: list[Span] = []
        for (start, _), (at, stop) in zip(self._bounds, left, strict=True):
            size = (at - start) // unit
            _extend(found, start + rank * size, size)
            if self.pieces == 2:
                _extend(found, start + (2 * ranks - 1 - rank) * size, size)
            begin, end = max(first - before, 0), min(last - before, stop - at)
            _extend(found, at + begin, end - begin)
            before += stop - at
        return tuple(found)


@lru_cache(maxsize=64)
def _spans_of(dealt: PerDocument, rank: int) -> Spans:
    return dealt.deal_to(rank)


def head_tail(starts: Starts, world_size: int, tokens: int, band: Band) -> OfOneSequence:
    """Each document's head and tail pieces to each rank."""
    return PerDocument(starts, world_size, tokens)


def balanced(starts: Starts, world_size: int, tokens: int, band: Band) -> OfOneSequence:
    """Pieces of the sequence, dealt by their work."""
    if world_size > MOST_PIECES:
        raise InvalidArgument(
            f"world_size is {world_size}; 'balanced' sorts pieces of all ranks, and takes at most "
            f"{MOST_PIECES} of them: deal by 'head_tail', or to fewer ranks."
        )
    work = _Work(starts, band)
    best: tuple[float, list[list[int]], list[int]] | None = None
    for pieces in PIECES:
        if pieces > tokens or pieces * world_size > MOST_PIECES:
            break
        ends = _ends(world_size, tokens, pieces)
        costs = [b - a for a, b in pairwise(map(work.before, ends))]
        held, loads = _greedily(costs, [b - a for a, b in pairwise(ends)], world_size)
        imbalance = max(loads) * world_size / max(1, sum(loads))
        if best is None or imbalance < best[0]:
            best = imbalance, held, ends
        if imbalance <= EVEN:
            break
    assert best is not None  # one piece each can always be
    _, held, ends = best
    return Dealt("balanced", tuple(_spans(sorted(mine), ends) for mine in held))


DEALS: dict[str, Deal] = {"head_tail": head_tail, "balanced": balanced}
"""By name."""


class _Work:
    """Allowed pairs of the rows before a position."""

    def __init__(self, starts: Starts, band: Band) -> None:
        self._starts, self._band, self._causal = starts, band, band == Band(low=0)
        lengths = [stop - start for start, stop in pairwise(starts)]
        pairs = {length: self._pairs(length, length) for length in set(lengths)}
        self._sums = list(accumulate((pairs[length] for length in lengths), initial=0))

    def before(self, position: int) -> int:
        """Of all documents, up to the position."""
        at = bisect_right(self._starts, position) - 1
        if at == len(self._starts) - 1:
            return self._sums[-1]
        start, stop = self._starts[at], self._starts[at + 1]
        return self._sums[at] + self._pairs(position - start, stop - start)

    def _pairs(self, rows: int, length: int) -> int:
        """Of a document's first rows."""
        if self._causal:  # a fifth of the time of any band's
            return rows * (rows + 1) // 2
        return self._band.area(rows, length)


def _ends(world_size: int, tokens: int, pieces: int) -> list[int]:
    """Where pieces end, of sizes that differ by one token at most, each size of as many as ranks
    take: groups of W pieces of one size each."""
    size, longer = divmod(tokens, pieces)
    sizes = (size + (group < longer) for group in range(pieces) for _ in range(world_size))
    return list(accumulate(sizes, initial=0))


def _greedily(
    costs: list[int], sizes: list[int], world_size: int
) -> tuple[list[list[int]], list[int]]:
    """The heaviest piece first, to the rank with the least work that has room for its size.

    Returns each rank's pieces and its work.
    """
    quota = {size: sizes.count(size) // world_size for size in set(sizes)}
    room = [dict(quota) for _ in range(world_size)]
    held: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    waiting = [(0, rank) for rank in range(world_size)]  # a heap
    for piece in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        size, full = sizes[piece], []
        while not room[(least := heappop(waiting))[1]][size]:
            full.append(least)
        rank = least[1]
        held[rank].append(piece)
        loads[rank] += costs[piece]
        room[rank][size] -= 1
        for one in (*full, (loads[rank], rank)):
            if any(room[one[1]].values()):
                heappush(waiting, one)
    return held, loads


def _spans(pieces: Iterable[int], ends: list[int]) -> Spans:
    found: list[Span] = []
    for piece in pieces:
        _extend(found, ends[piece], ends[piece + 1] - ends[piece])
    return tuple(found)


def _extend(spans: list[Span], start: int, count: int) -> None:
    """Adds so many tokens from start on, to the last span if they lie behind it."""
    if count <= 0:
        return
    if spans and spans[-1].start + spans[-1].count == start:
        spans[-1] = Span(spans[-1].start, spans[-1].count + count)
    else:
        spans.append(Span(start, count))
