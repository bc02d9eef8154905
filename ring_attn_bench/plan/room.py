"""Room for other batches' documents in what launches read on a device.

A pass that was captured into a CUDA graph reads the tables of the batch that it was captured with.
Where these have room, another batch's numbers are written into them, and the next replay is of its
documents. All else that a pass does must then follow from no batch: with room a rank fetches all
keys of all others, and tables are as large as any such batch needs.

Pure integers, and what others keep here: no tensor is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ring_attn_bench.errors import InvalidArgument

if TYPE_CHECKING:
    from ring_attn_bench.plan.block import Abilities
    from ring_attn_bench.plan.documents import DealtDocuments
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.layout import Layout

Write = Callable[[], None]
"""Writes numbers that fit into a table."""
Refill = Callable[["Gathered"], Write]
"""Makes a table's numbers for another launch; raises InvalidArgument where there is no room."""
_Made = TypeVar("_Made")


class Room:
    """Of one value of documents: what was made of it, and whose documents that is now of.

    documents: the most that a batch may have. now: the last batch whose numbers were written.
    """

    def __init__(self, documents: int) -> None:
        self.documents = documents
        self.now: DealtDocuments | None = None
        self.launches: dict[Hashable, Place] = {}

    def place(self, layout: Layout, rank: int, able: Abilities) -> Place:
        """That of a rank's launch: one of all batches."""
        key = rank, layout.band, able
        if key not in self.launches:
            self.launches[key] = Place(self, layout, rank, able)
        return self.launches[key]


@dataclass(eq=False)
class Place:
    """A rank's launch, of whichever batch, and the tables that were made for it."""

    room: Room
    layout: Layout
    rank: int
    able: Abilities

    def __post_init__(self) -> None:
        layout, ranks = self.layout, range(self.layout.world_size)
        spans = [
            len(layout.partition.spans(rank, layout.world_size, layout.tokens)) for rank in ranks
        ]
        whole = layout.partition.spans(self.rank, layout.world_size, layout.tokens)
        self.step = whole[0].step
        self._own, self._all = spans[self.rank], sum(spans)
        # one without a token has no tile, so that a capacity beyond all tokens is no memory
        self._documents = min(self.room.documents, layout.world_size * layout.tokens)
        self._tables: dict[Hashable, tuple[Any, Refill]] = {}

    def kept(
        self, told: Hashable, make: Callable[[], _Made], refilled: Callable[[_Made], Refill]
    ) -> _Made:
        """The table that is told so: made when it is asked for first, refilled from then on."""
        if told not in self._tables:
            made = make()
            self._tables[told] = made, refilled(made)
        found: _Made = self._tables[told][0]
        return found

    def refills(self, where: Gathered) -> list[Write]:
        """What writes another launch's numbers to all tables."""
        return [refill(where) for _, refill in self._tables.values()]

    def tiles(self, *, of_keys: bool, block: int) -> int:
        """The most tiles of so many rows, or keys, of any batch: one of each line is short."""
        layout, ends = self.layout, self._documents + 1  # and padding
        if not of_keys:
            return -(-layout.row_tokens // block) + self._own + ends
        ranks = layout.world_size
        return -(-ranks * layout.tokens // block) + self._all + ranks * ends

    def visits(self) -> int:
        """The most pairs of a line of rows and one of keys."""
        documents = self.layout.world_size * (self._documents + 1)
        return self._own * self._all + self._own + self._all + documents

    def entries(self, *, of_keys: bool, block: int) -> int:
        """The most visits of all tiles together: a document has a line in a span at most."""
        each = self._own if of_keys else self._all
        return self.tiles(of_keys=of_keys, block=block) * each


def check_fits(what: str, wanted: int, room: int) -> None:
    """Raises InvalidArgument where a table has no room for another batch."""
    if wanted > room:
        raise InvalidArgument(
            f"these documents take {wanted} {what} of a launch, and there is room for {room}, of "
            "the partition that was captured; deal by one that follows from no batch, as 'zigzag', "
            "or capture them anew."
        )
