"""Which keys of other ranks a rank needs, and which of its own it owes them.

A rank fetches what its rows see. What they see of an owner may lie in many places, where
documents are dealt to all ranks: beyond `MOST` messages, tokens of the smallest gaps come too.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from itertools import pairwise

from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.lower import Chunk, by_document, visible_keys
from ring_attn_bench.plan.positions import Range

MOST = 8
"""Messages from one owner: a copy of its own costs as much as 2.5 MB of a longer one, which is 600
tokens of 8 heads of 128 in bfloat16."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Keys and values that a rank needs: `tokens` of `owner`'s shard, landing at token `at`."""

    owner: int
    tokens: Range
    at: int

    @property
    def landing(self) -> Range:
        """Where the tokens land, in the landing area of their step."""
        return Range(self.at, self.at + len(self.tokens))


@dataclass(frozen=True, slots=True)
class Send:
    """Keys and values that a rank owes: `tokens` of its own shard, to `reader`."""

    reader: int
    tokens: Range


def landed(layout: Layout, fetch: Fetch) -> list[Chunk]:
    """The chunks of what is fetched, where they land."""
    owned, wanted, by = layout.chunks(fetch.owner), fetch.tokens, fetch.at - fetch.tokens.start
    first = bisect_right(owned, wanted.start, key=lambda chunk: chunk.tokens.stop)
    found = []
    for chunk in owned[first:]:
        tokens = chunk.tokens
        if tokens.start >= wanted.stop:
            break
        inside = Range(max(tokens.start, wanted.start), min(tokens.stop, wanted.stop))
        span = chunk.span.part(inside.shifted(-tokens.start))
        found.append(Chunk(inside.shifted(by), span, chunk.document))
    return found


def fetches_of(
    layout: Layout, rank: int, offsets: tuple[int, ...], *, in_turn: bool = False
) -> tuple[Fetch, ...]:
    """What rank needs of the ranks at `offsets`: most widely seen first, so rows can share keys.

    in_turn: in the order of the offsets, so that at no time two ranks read from one; so are those
    of documents, whose rows share no keys.
    """
    if layout.documents is None:
        return _fetches(layout, rank, offsets, in_turn)
    owners = [(rank - offset) % layout.world_size for offset in offsets]
    return _in_a_row((owner, x) for owner in owners for x in _packed(layout, rank, owner))


@lru_cache(maxsize=4096)
def _fetches(
    layout: Layout, rank: int, offsets: tuple[int, ...], in_turn: bool
) -> tuple[Fetch, ...]:
    owners = [(rank - offset) % layout.world_size for offset in offsets]
    needed = [
        (readers, owner, tokens)
        for owner in owners
        for readers, tokens in _needed(layout, rank, owner)
    ]
    if len(offsets) > 1 and not in_turn:
        needed.sort(key=lambda entry: -entry[0])
    return _in_a_row((owner, tokens) for _, owner, tokens in needed)


def _in_a_row(needed: Iterable[tuple[int, Range]]) -> tuple[Fetch, ...]:
    """Each owner's tokens where they land, neighbours at once."""
    made: list[Fetch] = []
    at = 0
    for owner, tokens in needed:
        before = made[-1] if made else None
        if before and before.owner == owner and before.tokens.stop == tokens.start:
            made[-1] = Fetch(owner, Range(before.tokens.start, tokens.stop), before.at)
        else:
            made.append(Fetch(owner, tokens, at))
        at += len(tokens)
    return tuple(made)


def sends_of(
    layout: Layout, rank: int, offsets: tuple[int, ...], *, in_turn: bool = False
) -> tuple[Send, ...]:
    """What the ranks that read from `rank` in this step will fetch, in their fetches' order."""
    owed = []
    for offset in offsets:
        reader = (rank + offset) % layout.world_size
        if layout.documents is not None:  # in the order in which they lie here
            owed += [Send(reader, tokens) for tokens in _packed(layout, reader, rank)]
            continue
        owed += [
            Send(reader, fetch.tokens)
            for fetch in fetches_of(layout, reader, offsets, in_turn=in_turn)
            if fetch.owner == rank
        ]
    return tuple(owed)


def _needed(layout: Layout, rank: int, owner: int) -> Iterator[tuple[int, Range]]:
    """What rank's rows see of owner's tokens, chunk by chunk, and how many chunks of rows do."""
    rows = layout.rows(rank)
    for chunk in layout.chunks(owner):
        seen = visible_keys(rows, chunk, layout.band)
        if len(seen):
            readers = sum(len(visible_keys([row], chunk, layout.band)) > 0 for row in rows)
            yield readers, seen.shifted(chunk.tokens.start)


@lru_cache(maxsize=512)
def _packed(layout: Layout, rank: int, owner: int) -> tuple[Range, ...]:
    """What rank's rows see of owner's tokens in documents that both have; with room, all."""
    if layout.room is not None:
        return (Range(0, layout.tokens),)
    rows = by_document(layout.rows(rank))
    seen = (
        visible_keys(rows.get(chunk.document, ()), chunk, layout.band).shifted(chunk.tokens.start)
        for chunk in layout.chunks(owner)
    )
    return tuple(_joined([tokens for tokens in seen if len(tokens)], MOST))


def _joined(ranges: Sequence[Range], most: int) -> list[Range]:
    """Rising ranges as at most so many, over the smallest gaps between them."""
    if not ranges:
        return []
    gaps = [after.start - before.stop for before, after in pairwise(ranges)]
    widest = nlargest(most - 1, range(len(gaps)), key=gaps.__getitem__)
    ends = [at for at in sorted(widest) if gaps[at]]
    firsts, lasts = [0, *(at + 1 for at in ends)], [*ends, len(ranges) - 1]
    return [Range(ranges[a].start, ranges[b].stop) for a, b in zip(firsts, lasts, strict=True)]
