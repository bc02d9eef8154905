"""Which tokens live on which rank, as global positions: three fixed partitions, or any as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import overload
from zlib import crc32

from ring_attn_bench.errors import InvalidArgument, UnknownName
from ring_attn_bench.plan.positions import Span, Spans, count


@dataclass(frozen=True, slots=True)
class Partition:
    """A rule that deals the tokens of a sequence to ranks, the same number to each.

    chunks_per_rank: pieces a rank's tokens fall into; its local length must be a multiple of it.
    """

    name: str
    chunks_per_rank: int
    _spans: Callable[[int, int, int], Spans]

    @property
    def identity(self) -> str:
        """What ranks compare: its name."""
        return self.name

    def spans(self, rank: int, world_size: int, tokens_per_rank: int) -> Spans:
        """The global positions of rank's tokens, increasing, in the order of its storage."""
        return self._spans(rank, world_size, tokens_per_rank)

    def check_local_length(self, tokens_per_rank: int) -> None:
        """Raises InvalidArgument if a rank cannot hold that many tokens."""
        if tokens_per_rank <= 0 or tokens_per_rank % self.chunks_per_rank:
            raise InvalidArgument(
                f"each rank holds {tokens_per_rank} tokens, but partition {self.name!r} needs a "
                f"positive multiple of {self.chunks_per_rank}; pad the sequence or shorten it."
            )

    def tokens_per_rank(self, seqlen: int, world_size: int) -> int:
        """The local length for a sequence of `seqlen` tokens; raises InvalidArgument if uneven."""
        unit = self.chunks_per_rank * world_size
        if seqlen <= 0 or seqlen % unit:
            below = max(0, seqlen) // unit * unit
            nearest = f"are {below} and {below + unit}" if below else f"is {unit}"
            raise InvalidArgument(
                f"a sequence of {seqlen} tokens cannot be dealt to {world_size} ranks by partition "
                f"{self.name!r}: its length must be a positive multiple of {unit}; the nearest "
                f"{nearest}."
            )
        return seqlen // world_size


class OfOneSequence(ABC):
    """A partition of one sequence over one number of ranks, in spans of steps of 1.

    Every rank has as many tokens, each token is one rank's.
    """

    name: str
    world_size: int
    local: int
    """Tokens of each rank."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What ranks compare: its name and who holds what."""

    @abstractmethod
    def spans_of(self, rank: int) -> Spans:
        """The positions of rank's tokens, increasing, in the order of its storage."""

    def spans(self, rank: int, world_size: int, tokens_per_rank: int) -> Spans:
        """As `Partition.spans`; raises InvalidArgument for other ranks or another length."""
        self.tokens_per_rank(world_size * tokens_per_rank, world_size)
        return self.spans_of(rank)

    def check_local_length(self, tokens_per_rank: int) -> None:
        """Raises InvalidArgument for another number of tokens than it deals."""
        if tokens_per_rank != self.local:
            raise InvalidArgument(
                f"partition {self.name!r} deals {self.local} tokens to each rank, not "
                f"{tokens_per_rank}; it is of one packed sequence, and another needs its own."
            )

    def tokens_per_rank(self, seqlen: int, world_size: int) -> int:
        """As `Partition.tokens_per_rank`."""
        if world_size != self.world_size or seqlen != world_size * self.local:
            raise InvalidArgument(
                f"partition {self.name!r} deals a sequence of {self.world_size * self.local} "
                f"tokens to {self.world_size} ranks, not one of {seqlen} to {world_size}; make it "
                "for the sequence and the ring that it is used with."
            )
        return self.local


@dataclass(frozen=True)
class Dealt(OfOneSequence):
    """A partition as data: of_ranks has each rank's spans; raises InvalidArgument for no such."""

    name: str
    of_ranks: tuple[Spans, ...]

    def __post_init__(self) -> None:
        every = sorted(
            (span.start, span.start + span.count, span.step)
            for spans in self.of_ranks
            for span in spans
        )
        rising = all(a.last < b.start for spans in self.of_ranks for a, b in pairwise(spans))
        in_a_row = all(a[1] == b[0] for a, b in pairwise([(0, 0, 1), *every]))
        alike = len({count(spans) for spans in self.of_ranks}) == 1 and every[-1:]
        if not rising or not in_a_row or not alike or {step for *_, step in every} != {1}:
            raise InvalidArgument(
                f"partition {self.name!r} is none: every rank must have as many tokens, in spans "
                "of steps of 1 and increasing, and each token of the sequence be one rank's."
            )

    def __hash__(self) -> int:
        return self._checksum

    @property
    def world_size(self) -> int:  # type: ignore[override]  # a property is enough
        """How many ranks it deals to."""
        return len(self.of_ranks)

    @cached_property
    def local(self) -> int:  # type: ignore[override]
        """Tokens of each rank."""
        return count(self.of_ranks[0])

    @property
    def identity(self) -> str:
        """Its name and a checksum of who holds what."""
        return f"{self.name} {self._checksum}"

    @cached_property
    def _checksum(self) -> int:
        numbers = array("q", [len(self.of_ranks)])
        for spans in self.of_ranks:
            numbers.extend(x for span in spans for x in (span.start, span.count))
            numbers.append(-1)
        return crc32(numbers.tobytes())

    def spans_of(self, rank: int) -> Spans:
        """As there."""
        return self.of_ranks[rank]


def _contiguous(rank: int, world_size: int, tokens: int) -> Spans:
    return (Span(rank * tokens, tokens),)


def _zigzag(rank: int, world_size: int, tokens: int) -> Spans:
    chunk = tokens // 2
    return (Span(rank * chunk, chunk), Span((2 * world_size - 1 - rank) * chunk, chunk))


def _striped(rank: int, world_size: int, tokens: int) -> Spans:
    return (Span(rank, tokens, world_size),)


PARTITIONS = {
    p.name: p
    for p in (
        # rank r holds the r-th piece; causal work is uneven, (W + 1) / 2W of ideal
        Partition("contiguous", 1, _contiguous),
        # rank r holds pieces r and 2W - 1 - r of 2W; causal work is exactly even
        Partition("zigzag", 2, _zigzag),
        # rank r holds tokens r, r + W, ...; causal work is even to within one diagonal
        Partition("striped", 1, _striped),
    )
}
"""The partitions by name (striped: Brandon et al. 2023; zigzag: as in ring-flash-attention)."""


Rule = Partition | OfOneSequence
"""A partition."""
AnyPartition = str | Rule
"""A partition, or the name of one of the table's."""


@overload
def get_partition(name: str) -> Partition: ...
@overload
def get_partition(name: AnyPartition) -> Rule: ...
def get_partition(name: AnyPartition) -> Rule:
    """The partition of that name, or the given one; raises UnknownName."""
    if isinstance(name, Rule):
        return name
    if not isinstance(name, str) or name not in PARTITIONS:
        raise UnknownName("partition", name, PARTITIONS)
    return PARTITIONS[name]
