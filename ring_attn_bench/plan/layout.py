"""Who holds what, and how a pass is cut into steps: everything that a plan follows from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.documents import Starts, check_starts
from ring_attn_bench.plan.lower import Chunk, chunks
from ring_attn_bench.plan.partition import Rule
from ring_attn_bench.plan.positions import Band


@dataclass(frozen=True, slots=True)
class Layout:
    """Who holds what, and how a pass is cut into steps.

    tokens: local length of every rank.
    slots: landing areas (2 is the classic ring; at least the number of steps is a full run-ahead).
    grouping: how many ranks' keys each remote step brings; None is one each.
    one_launch: whether the keys of all ranks, own ones too, are one launch's; grouping is then all.
    documents: where they begin in the whole sequence, and where the last one ends; what is behind
        it is padding, which sees nothing and is not seen. None is one document of all tokens.
    """

    partition: Rule
    world_size: int
    tokens: int
    band: Band
    slots: int = 2
    grouping: tuple[int, ...] | None = None
    one_launch: bool = False
    documents: Starts | None = None

    def __post_init__(self) -> None:
        self.partition.check_local_length(self.tokens)
        if self.slots < 1:
            raise InvalidArgument(f"slots is {self.slots}, but a ring needs at least 1.")
        remote = self.world_size - 1
        if self.grouping is not None and (
            sum(self.grouping) != remote or any(size < 1 for size in self.grouping)
        ):
            raise InvalidArgument(
                f"grouping {self.grouping} must be positive numbers that add up to the "
                f"{remote} other ranks."
            )
        if self.documents is not None:
            check_starts(self.documents, self.world_size * self.tokens)

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """The ring offsets that each step brings; step 0 is the rank itself."""
        sizes = (1,) * (self.world_size - 1) if self.grouping is None else self.grouping
        starts = [1 + sum(sizes[:i]) for i in range(len(sizes))]
        remote = tuple(tuple(range(a, a + n)) for a, n in zip(starts, sizes, strict=True))
        return ((0,), *remote)

    def chunks(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks of rank's shard, each of one document."""
        where = self.partition, self.world_size, self.tokens, self.documents
        return _chunks(*where, rank)


@lru_cache(maxsize=64)
def _chunks(
    partition: Rule,
    world_size: int,
    tokens: int,
    documents: Starts | None,
    rank: int,
) -> tuple[Chunk, ...]:
    return chunks(partition.spans(rank, world_size, tokens), documents=documents)
