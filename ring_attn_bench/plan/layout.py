"""Who holds what, and how a pass is cut into steps: everything that a plan follows from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.documents import NONE, Starts, Void, check_starts
from ring_attn_bench.plan.lower import Chunk, chunks
from ring_attn_bench.plan.partition import Rule
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.room import Room


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries that are others than the keys, of as many documents: cross attention.

    Of each document the last query stands at the last key, as in flash-attn. tokens: of each rank.
    """

    partition: Rule
    tokens: int
    starts: Starts


@dataclass(frozen=True, slots=True)
class Layout:
    """Who holds what, and how a pass is cut into steps.

    tokens: local length of every rank.
    slots: landing areas (2 is the classic ring; at least the number of steps is a full run-ahead).
    grouping: how many ranks' keys each remote step brings; None is one each.
    one_launch: whether the keys of all ranks, own ones too, are one launch's; grouping is then all.
    documents: where they begin in the whole sequence, and where the last one ends; what is behind
        it is padding, which sees nothing and is not seen. None is one document of all tokens.
    void: which of the documents are padding. queries: where they are others than the keys, whose
        documents must then be told.
    room: for other batches' documents in what is captured; a rank then fetches all keys.
    """

    partition: Rule
    world_size: int
    tokens: int
    band: Band
    slots: int = 2
    grouping: tuple[int, ...] | None = None
    one_launch: bool = False
    documents: Starts | None = None
    queries: Queries | None = None
    void: Void = NONE
    room: Room | None = None

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
        if self.queries is not None:
            self._check_queries(self.queries)

    def _check_queries(self, queries: Queries) -> None:
        queries.partition.check_local_length(queries.tokens)
        check_starts(queries.starts, self.world_size * queries.tokens)
        documents = 0 if self.documents is None else len(self.documents) - 1
        if documents != len(queries.starts) - 1:
            raise InvalidArgument(
                f"the queries are of {len(queries.starts) - 1} documents and the keys of "
                f"{documents}; they must be as many."
            )
        steps = [
            {
                span.step
                for rank in range(self.world_size)
                for span in rule.spans(rank, self.world_size, tokens)
                if span.count > 1
            }
            for rule, tokens in (
                (queries.partition, queries.tokens), (self.partition, self.tokens),
            )
        ]  # fmt: skip
        if len(steps[0] | steps[1]) > 1:
            raise InvalidArgument(
                f"the queries are dealt by {queries.partition.name!r} and the keys by "
                f"{self.partition.name!r}; deal both by stripes, or neither."
            )

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """The ring offsets that each step brings; step 0 is the rank itself."""
        sizes = (1,) * (self.world_size - 1) if self.grouping is None else self.grouping
        starts = [1 + sum(sizes[:i]) for i in range(len(sizes))]
        remote = tuple(tuple(range(a, a + n)) for a, n in zip(starts, sizes, strict=True))
        return ((0,), *remote)

    @property
    def row_tokens(self) -> int:
        """The number of queries of every rank."""
        return self.tokens if self.queries is None else self.queries.tokens

    @property
    def striped(self) -> bool:
        """Whether ranks hold tokens that do not lie in a row: all of them do then."""
        sides = [(self.partition, self.tokens)]
        if self.queries is not None:
            sides.append((self.queries.partition, self.queries.tokens))
        spans = (span for rule, n in sides for span in rule.spans(0, self.world_size, n))
        return any(span.count > 1 and span.step != 1 for span in spans)

    def chunks(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks of rank's keys, each of one document."""
        where = self.partition, self.world_size, self.tokens, self.documents, self.void
        return _chunks(*where, rank)

    def rows(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks of rank's queries, each of one document, at positions among its keys.

        They may be negative, where a document has fewer keys than queries.
        """
        queries = self.queries
        if queries is None:
            return self.chunks(rank)
        assert self.documents is not None  # as was checked
        where = queries.partition, self.world_size, queries.tokens, queries.starts, self.void
        return _among_keys(_chunks(*where, rank), queries.starts, self.documents)


@lru_cache(maxsize=64)
def _chunks(
    partition: Rule, world_size: int, tokens: int, documents: Starts | None, void: Void, rank: int
) -> tuple[Chunk, ...]:
    return chunks(partition.spans(rank, world_size, tokens), documents=documents, void=void)


@lru_cache(maxsize=64)
def _among_keys(rows: tuple[Chunk, ...], queries: Starts, keys: Starts) -> tuple[Chunk, ...]:
    found = []
    for chunk in rows:
        end = chunk.document + 1  # of padding, the first: it sees nothing, wherever it stands
        span = replace(chunk.span, start=chunk.span.start + keys[end] - queries[end])
        found.append(replace(chunk, span=span))
    return tuple(found)
