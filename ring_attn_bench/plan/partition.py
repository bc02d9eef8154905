"""Which tokens live on which rank, as global positions: three fixed partitions, or any as data."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Dealt:
    """A partition as data, of one sequence and number of ranks: which tokens each rank holds.

    of_ranks: by rank, the positions of its tokens in steps of 1, increasing, in the order of its
    storage; as many tokens on every rank.
    """

    name: str
    of_ranks: tuple[Spans, ...]

    def __hash__(self) -> int:
        return self._checksum

    @property
    def identity(self) -> str:
        """What ranks compare: its name and who holds what."""
        return f"{self.name} {self._checksum}"

    @cached_property
    def _checksum(self) -> int:
        numbers = array("q", [len(self.of_ranks)])
        for spans in self.of_ranks:
            numbers.extend(x for span in spans for x in (span.start, span.count))
            numbers.append(-1)
        return crc32(numbers.tobytes())

    @cached_property
    def _tokens(self) -> int:
        return count(self.of_ranks[0])

    def spans(self, rank: int, world_size: int, tokens_per_rank: int) -> Spans:
        """As `Partition.spans`; raises InvalidArgument for other ranks or another length."""
        if world_size != len(self.of_ranks):
            raise InvalidArgument(
                f"partition {self.name!r} deals a sequence to {len(self.of_ranks)} ranks, not to "
                f"{world_size}; make it for as many ranks as the ring has."
            )
        self.check_local_length(tokens_per_rank)
        return self.of_ranks[rank]

    def check_local_length(self, tokens_per_rank: int) -> None:
        """Raises InvalidArgument for another number of tokens than it deals."""
        if tokens_per_rank != self._tokens:
            raise InvalidArgument(
                f"partition {self.name!r} deals {self._tokens} tokens to each rank, not "
                f"{tokens_per_rank}; it is of one packed sequence, and another needs its own."
            )

    def tokens_per_rank(self, seqlen: int, world_size: int) -> int:
        """As `Partition.tokens_per_rank`."""
        if world_size != len(self.of_ranks) or seqlen != world_size * self._tokens:
            raise InvalidArgument(
                f"partition {self.name!r} deals a sequence of {len(self.of_ranks) * self._tokens} "
                f"tokens to {len(self.of_ranks)} ranks, not one of {seqlen} to {world_size}."
            )
        return self._tokens


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


AnyPartition = str | Partition | Dealt
"""A partition, or the name of one of the table's."""


@overload
def get_partition(name: str) -> Partition: ...
@overload
def get_partition(name: AnyPartition) -> Partition | Dealt: ...
def get_partition(name: AnyPartition) -> Partition | Dealt:
    """The partition of that name, or the given one; raises UnknownName."""
    if isinstance(name, Partition | Dealt):
        return name
    if not isinstance(name, str) or name not in PARTITIONS:
        raise UnknownName("partition", name, PARTITIONS)
    return PARTITIONS[name]
