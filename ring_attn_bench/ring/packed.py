"""Packed tensors of a call on a ring: whose documents they are, and their padding.

A ring computes of q, k and v with a batch dim and as many tokens on every rank, padding as zeros;
what callers have is without the one, and may be without the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.validate import check_tensor
from ring_attn_bench.document_sharding import CuSeqlens, dealt_documents, starts_of
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.deal import DEALS, PerDocument
from ring_attn_bench.plan.documents import DealtDocuments, check_starts
from ring_attn_bench.plan.partition import AnyPartition, get_partition
from ring_attn_bench.ring.call import Packed
from ring_attn_bench.ring.context import RingContext

Deal = Callable[[RingContext, int, int], Packed]
"""The documents of a ring with so many keys and so many queries on this rank; raises."""


class Shard(NamedTuple):
    """Where a rank's tokens are in their documents: of keys, or of queries."""

    documents: DealtDocuments
    rank: int

    def whole(self, x: Tensor) -> Tensor:
        """x (held, ...) with a batch dim, and zeros for padding."""
        side = self.documents
        x = _first(x, side.tokens - side.padding(self.rank), side.tokens)
        return (self._void(x, 0, 0.0) if side.void else x)[None]

    def held(self, x: Tensor, dim: int = 0, value: float = 0.0) -> Tensor:
        """What the rank's tensors hold of x, with the value for padding."""
        side = self.documents
        x = self._void(x, dim, value) if side.void else x
        inside = side.tokens - side.padding(self.rank)
        return _first(x, inside, side.held(self.rank), dim, value)

    def whole_lse(self, lse: Tensor, padding: Tensor | float) -> Tensor:
        """lse (heads, held) with a batch dim, and for padding the value, or one of each head."""
        side = self.documents
        inside = side.tokens - side.padding(self.rank)
        found = lse.new_empty(lse.shape[0], side.tokens)
        found[:, :inside] = lse[:, :inside]
        value = padding if isinstance(padding, float) else padding.detach()[:, None].to(lse.dtype)
        for tokens in side.outside(self.rank):
            found[:, tokens.slice] = value
        return found[None]

    def _void(self, x: Tensor, dim: int, value: float) -> Tensor:
        """The value where padding is, inside the sequence too."""
        outside = torch.zeros(self.documents.tokens, dtype=torch.bool, device="cpu")
        for tokens in self.documents.outside(self.rank):
            outside[tokens.slice] = True
        shape = [1] * x.dim()
        shape[dim] = -1
        return x.masked_fill(outside.to(x.device).view(shape), value)


def _first(x: Tensor, inside: int, tokens: int, dim: int = 0, value: float = 0.0) -> Tensor:
    """The first tokens of x, and behind them the value: so many inside, and so many of them all.

    Whatever x has behind them, not even a NaN comes out of it.
    """
    if inside == x.shape[dim] == tokens:
        return x
    behind = (0, 0) * (x.dim() - 1 - dim) + (0, tokens - inside)
    return pad(x.narrow(dim, 0, inside), behind, value=value)


class Sides(NamedTuple):
    """Whose documents the tensors of a rank are."""

    packed: Packed
    rows: Shard
    keys: Shard

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], deal: Deal, ring: RingContext) -> Sides:
        """Of q, k and v (tokens, heads, dim); raises InvalidArgument."""
        for name, x in zip("qkv", tensors, strict=True):
            check_tensor(name, x, ("tokens", "heads", "dim"), may_be_empty=True)
        counts = [x.shape[0] for x in tensors]
        documents, queries = deal(ring, counts[1], counts[0])
        if counts[1] != counts[2] or (queries is None and counts[0] != counts[1]):
            raise InvalidArgument(
                f"q, k and v must have one number of tokens, got {counts[0]}, {counts[1]} and "
                f"{counts[2]}; queries of their own lengths are told by queries=."
            )
        rows = documents if queries is None else queries
        packed = documents, queries
        return cls(packed, Shard(rows, ring.rank), Shard(documents, ring.rank))

    @property
    def partition(self) -> str:
        """Its name."""
        return self.packed[0].partition.name

    def whole(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As a ring computes of them."""
        return self.rows.whole(q), self.keys.whole(k), self.keys.whole(v)

    def held(self, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """The caller's out (held, heads, dim) and lse (heads, held)."""
        return self.rows.held(out[0]), self.rows.held(lse[0], dim=1, value=float("-inf"))


class Told(NamedTuple):
    """Of a packed sequence that is dealt to all ranks: what `ring_attn_varlen_func` is told."""

    cu_seqlens: CuSeqlens | DealtDocuments
    partition: AnyPartition | None
    max_seqlen: int | None
    queries: CuSeqlens | DealtDocuments | None

    def deal(self, ring: RingContext, keys: int, rows: int) -> Packed:
        """As `Deal`."""
        dealt = self._dealt("k", self.cu_seqlens, ring, keys)
        check_longest("max_seqlen", self.max_seqlen, dealt.longest)
        if self.queries is None:
            return dealt, None
        if dealt.room is not None:
            raise InvalidArgument(
                "the documents have a capacity, and queries= is given; queries of their own "
                "lengths have no room for others: pass documents without capacity."
            )
        if dealt.void:
            raise InvalidArgument(
                "the documents have seqused, and queries= is given; queries of their own lengths "
                "need keys without padding inside: pass documents of the tokens that are used."
            )
        return dealt, self._dealt("q", self.queries, ring, rows)

    def _dealt(
        self, side: str, given: CuSeqlens | DealtDocuments, ring: RingContext, tokens: int
    ) -> DealtDocuments:
        partition, ranks = self.partition, ring.world_size
        given = given.now if isinstance(given, DealtDocuments) else given
        if not isinstance(given, DealtDocuments):
            if partition is None:
                raise InvalidArgument(
                    "partition is None; it must say how the packed sequence was dealt, as "
                    "'zigzag', or cu_seqlens must be what documents(...) made, which has it."
                )
            if isinstance(partition, str) and partition in DEALS:
                raise InvalidArgument(
                    f"partition {partition!r} deals each batch by itself; pass the value by which "
                    f"it was dealt, documents(cu_seqlens, {partition!r}, ...), in place of "
                    "cu_seqlens."
                )
            return dealt_documents(given, partition, ranks, tokens * ranks)
        if partition is not None and get_partition(partition) != given.partition:
            raise InvalidArgument(
                f"partition is {shown(partition)}, but the documents were dealt by "
                f"{given.partition.name!r}; leave it out."
            )
        held = given.held(ring.rank) if ring.rank < given.world_size else given.tokens
        if (given.world_size, held) != (ranks, tokens):
            raise InvalidArgument(
                f"the documents are of {held} tokens on rank {ring.rank} of {given.world_size}, "
                f"but {side} has {tokens} on one of {ranks}; make them for this ring, with "
                "seqlen= where the sequence is padded, or uneven=True where it is not and does "
                "not divide."
            )
        return given


class EachDealt(NamedTuple):
    """Of documents that are dealt to all ranks one by one, in so many pieces of each for a rank.

    cu_seqlens, max_seqlen: of a rank's own tokens, alike on every rank.
    """

    cu_seqlens: CuSeqlens
    max_seqlen: int
    pieces: int

    def deal(self, ring: RingContext, keys: int, rows: int) -> Packed:
        """As `Deal`."""
        starts = starts_of(self.cu_seqlens)
        check_starts(starts, keys)
        check_longest("max_seqlen", self.max_seqlen, longest_of(starts))
        odd = next((x for x in starts if x % self.pieces), None)
        if odd is not None:
            raise InvalidArgument(
                f"cu_seqlens has {odd}; each rank has two parts of each document, as long as each "
                "other, so that every number must be even: pad documents to multiples of "
                f"{self.pieces * ring.world_size} tokens, or call ring_attn_varlen_func, which "
                "takes any."
            )
        whole = tuple(start * ring.world_size for start in starts)
        dealt = PerDocument(whole, ring.world_size, keys, self.pieces)
        return DealtDocuments(whole, dealt, ring.world_size, keys), None


class Prepared(NamedTuple):
    """Of a packed sequence that is dealt to all ranks, prepared for one of them."""

    documents: DealtDocuments
    rank: int

    def deal(self, ring: RingContext, keys: int, rows: int) -> Packed:
        """As `Deal`."""
        documents = self.documents
        made_for = documents.world_size, self.rank, documents.tokens
        if made_for != (ring.world_size, ring.rank, keys):
            raise InvalidArgument(
                f"cu_seqlens were prepared for rank {made_for[1]} of {made_for[0]} with "
                f"{made_for[2]} tokens, and this is rank {ring.rank} of {ring.world_size} with "
                f"{keys}."
            )
        return documents, None


AnyTold = Told | EachDealt | Prepared


def longest_of(starts: Sequence[int]) -> int:
    """The length of the longest document."""
    return max(stop - start for start, stop in pairwise(starts))


def check_longest(name: str, told: int | None, longest: int) -> None:
    """Raises InvalidArgument for a longest document that is shorter than one is."""
    if told is None:
        return
    if (told if type(told) is int else integer(name, told)) < longest:
        raise InvalidArgument(
            f"{name} is {told}, but a document has {longest} tokens; pass that, or more."
        )
