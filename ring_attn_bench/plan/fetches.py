"""Which keys of other ranks a rank needs, and which of its own it owes them.

A rank fetches what its rows see. What they see of an owner may lie in many places, where
documents are dealt to all ranks: beyond `MOST` messages, tokens of the smallest gaps come too.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from itertools import pairwise

from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.lower import Chunk, by_document, chunks, visible_keys
from ring_attn_bench.plan.positions import Range, part

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


def landed(layout: Layout, fetch: Fetch) -> tuple[Chunk, ...]:
    """The chunks of what is fetched, where they land."""
    spans = layout.partition.spans(fetch.owner, layout.world_size, layout.tokens)
    return chunks(part(spans, fetch.tokens), fetch.at, layout.documents)


@lru_cache(maxsize=4096)
def fetches_of(
    layout: Layout, rank: int, offsets: tuple[int, ...], *, in_turn: bool = False
) -> tuple[Fetch, ...]:
    """What rank needs of the ranks at `offsets`: most widely seen first, so rows can share keys.

    in_turn: in the order of the offsets, so that at no time two ranks read from one; so are those
    of documents, whose rows share no keys.
    """
    needed: list[tuple[int, int, Range]] = []
    rows = by_document(layout.chunks(rank))
    for offset in offsets:
        owner = (rank - offset) % layout.world_size
        found = []
        for chunk in layout.chunks(owner):
            ours = rows.get(chunk.document, ())
            seen = visible_keys(ours, chunk, layout.band)
            if len(seen):
                readers = sum(len(visible_keys([row], chunk, layout.band)) > 0 for row in ours)
                found.append((-readers, owner, seen.shifted(chunk.tokens.start)))
        if layout.documents is not None:
            found = [(0, owner, tokens) for tokens in _joined([x[2] for x in found], MOST)]
        needed += found
    if len(offsets) > 1 and not in_turn:
        needed.sort(key=lambda entry: entry[0])
    made: list[Fetch] = []
    at = 0
    for _, owner, tokens in needed:
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
        owed += [
            Send(reader, fetch.tokens)
            for fetch in fetches_of(layout, reader, offsets, in_turn=in_turn)
            if fetch.owner == rank
        ]
    return tuple(owed)


def _joined(ranges: Sequence[Range], most: int) -> list[Range]:
    """Rising ranges as at most so many, over the smallest gaps between them."""
    if not ranges:
        return []
    gaps = [after.start - before.stop for before, after in pairwise(ranges)]
    widest = nlargest(most - 1, range(len(gaps)), key=gaps.__getitem__)
    ends = [at for at in sorted(widest) if gaps[at]]
    firsts, lasts = [0, *(at + 1 for at in ends)], [*ends, len(ranges) - 1]
    return [Range(ranges[a].start, ranges[b].stop) for a, b in zip(firsts, lasts, strict=True)]
