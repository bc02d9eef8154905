"""Packed documents: sequences that lie behind one another in one row of tokens.

Tokens see none of another document. A document's tokens lie in a row, so the distance of two of
them is that of their positions in the whole row: bands, windows and ALiBi's bias need to know
nothing of where a document begins, and what a plan needs is which tokens are of one document.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.partition import Rule
from ring_attn_bench.plan.positions import Band, Range, Span, Spans
from ring_attn_bench.plan.room import Room

Starts = tuple[int, ...]
"""Where each document begins, and after the last one where it ends: cu_seqlens."""

Void = frozenset[int]
"""Numbers of documents that are padding."""
NONE: Void = frozenset()

OUTSIDE = -1
"""The number of the document that padding is in, which sees nothing."""


def check_starts(starts: Starts, tokens: int | None = None) -> None:
    """Raises InvalidArgument unless documents lie one behind another, in so many tokens."""
    if len(starts) < 2 or starts[0] != 0 or any(b < a for a, b in pairwise(starts)):
        raise InvalidArgument(
            f"cu_seqlens must rise from 0, with a number for each document and one more, got "
            f"{_shortened(starts)}."
        )
    if tokens is not None and starts[-1] > tokens:
        raise InvalidArgument(
            f"cu_seqlens end at {starts[-1]}, but the ranks hold {tokens} tokens together; they "
            "are of the whole packed sequence, alike on every rank."
        )


def cut(span: Span, starts: Starts, void: Void = NONE) -> Iterator[tuple[Span, int]]:
    """The span's parts that are of one document each, with the document's number."""
    at, left = span.start, span.count
    while left:
        document = bisect_right(starts, at) - 1
        if document == len(starts) - 1:
            yield Span(at, left, span.step), OUTSIDE
            return
        inside = min(left, -(-(starts[document + 1] - at) // span.step))
        yield Span(at, inside, span.step), OUTSIDE if document in void else document
        at, left = at + inside * span.step, left - inside


@dataclass(frozen=True)
class DealtDocuments:
    """The documents of one batch, and which rank holds which of their tokens.

    starts: cu_seqlens, where each document begins in the packed sequence and after the last where
    it ends. tokens: of each rank; what the ranks hold beyond the last document is padding.
    uneven: whether ranks hold no padding behind the last document, and so fewer tokens than that
    where they would. void: which of the documents are padding. room: for other batches in what was
    captured with this one, in this process. traced: a tensor of the value as it is `written`, for
    graphs, where somebody made one.
    """

    starts: Starts
    partition: Rule
    world_size: int
    tokens: int
    uneven: bool = False
    void: Void = NONE
    room: Room | None = None
    traced: object = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_starts(self.starts, self.world_size * self.tokens)
        self.partition.check_local_length(self.tokens)

    def __hash__(self) -> int:
        return self._hash

    @property
    def _fields(self) -> tuple[object, ...]:
        whole = self.starts, self.partition, self.world_size, self.tokens
        return *whole, self.uneven, self.void

    @cached_property
    def _hash(self) -> int:
        # kept, because every call of a layer is found by it
        return hash(self._fields)

    def __reduce__(self) -> tuple[object, ...]:
        # without what is kept: hashes of names are a process's own, and loaders are other ones
        again = type(self), self._fields
        return again if self.traced is None else (*again, {"traced": self.traced})

    @property
    def now(self) -> DealtDocuments:
        """What the value stands for: itself, or the batch that was last written to its room."""
        room = self.room
        return self if room is None or room.now is None else room.now

    @cached_property
    def longest(self) -> int:
        """The length of the longest document."""
        return max(stop - start for start, stop in pairwise(self.starts))

    @property
    def apart(self) -> Starts | None:
        """The starts for a layout: None where all tokens are of one document, for good."""
        alone = len(self.starts) == 2 and self.starts[1] == self.world_size * self.tokens
        return None if alone and not self.void and self.room is None else self.starts

    def spans(self, rank: int) -> Spans:
        """The positions in the packed sequence of rank's tokens, in the order of its storage."""
        return self.partition.spans(rank, self.world_size, self.tokens)

    def padding(self, rank: int) -> int:
        """How many of rank's tokens are in no document: its last ones."""
        if rank not in self._padding:
            end, spans = self.starts[-1], self.spans(rank)
            inside = (min(max(0, -(-(end - s.start) // s.step)), s.count) for s in spans)
            self._padding[rank] = self.tokens - sum(inside)
        return self._padding[rank]

    @cached_property
    def _padding(self) -> dict[int, int]:
        # kept by rank, because every call of a layer asks
        return {}

    def held(self, rank: int) -> int:
        """How many tokens the rank's tensors have."""
        return self.tokens - self.padding(rank) if self.uneven else self.tokens

    def outside(self, rank: int) -> tuple[Range, ...]:
        """Where rank's tensors hold padding."""
        found, at = [], 0
        for span in self.spans(rank):
            for part, number in cut(span, self.starts, self.void):
                if number == OUTSIDE:
                    found.append(Range(at, at + part.count))
                at += part.count
        return tuple(found)

    def pairs(self, rank: int, band: Band) -> int:
        """Allowed pairs of rank's rows: its work."""
        return sum(
            _pairs(part, self.starts[number], self.starts[number + 1], band)
            for span in self.spans(rank)
            for part, number in cut(span, self.starts, self.void)
            if number != OUTSIDE
        )

    def imbalance(self, band: Band) -> float:
        """The busiest rank's pairs over the ranks' mean; 1 is perfect."""
        pairs = [self.pairs(rank, band) for rank in range(self.world_size)]
        return max(pairs) * self.world_size / sum(pairs) if any(pairs) else 1.0


def _pairs(rows: Span, start: int, stop: int, band: Band) -> int:
    """Of rows of the document from start to stop with all of its keys."""
    length, first = stop - start, rows.start - start
    if rows.step == 1:
        return band.area(first + rows.count, length) - band.area(first, length)
    at = range(first, rows.last - start + 1, rows.step)
    return sum(band.area(i + 1, length) - band.area(i, length) for i in at)


def _shortened(starts: Starts) -> str:
    return str(list(starts)) if len(starts) <= 9 else f"[{', '.join(map(str, starts[:8]))}, ...]"
