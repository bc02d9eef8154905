"""Which word says what: every rank has a table of them in memory that its peers can write.

A pass leaves its keys in one of two outboxes: `slot` in this package is which of them, and what
`RingOptions(slots=)` counts are landing areas, at the other end. Each word is one signal from one
peer, 0 or 1: written by the peer, waited for and made 0 again by its owner, which is what lets a
captured pass be replayed. Both sides take turns: no word is written before it was taken, for two
signals would be one, and the second wait for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOTS = 2
"""Outboxes: while the keys of one pass are still read, those of the next are packed."""
_BYTES = 4


@dataclass(frozen=True, slots=True)
class Words:
    """Offsets in bytes, in a table for so many ranks; `peer` is who writes the word."""

    world_size: int

    @property
    def bytes(self) -> int:
        """The size of the table in bytes."""
        return _BYTES * self.world_size * (2 * SLOTS + 2)

    def present(self, slot: int, peer: int) -> int:
        """The peer is in the pass, and its keys are in its slot."""
        return self._at(slot, peer)

    def free(self, slot: int, peer: int) -> int:
        """The peer has read all that it needs of this rank's slot; 1 to begin with."""
        return self._at(SLOTS + slot, peer)

    def given(self, peer: int) -> int:
        """The peer's gradients of this rank's keys are in its part of the inbox."""
        return self._at(2 * SLOTS, peer)

    def room(self, peer: int) -> int:
        """The peer's inbox has room for this rank's gradients; 1 to begin with."""
        return self._at(2 * SLOTS + 1, peer)

    def first(self) -> list[int]:
        """The table's words as they begin."""
        words = [0] * (self.bytes // _BYTES)
        for peer in range(self.world_size):
            for offset in (*(self.free(slot, peer) for slot in range(SLOTS)), self.room(peer)):
                words[offset // _BYTES] = 1
        return words

    def _at(self, row: int, peer: int) -> int:
        return _BYTES * (row * self.world_size + peer)
