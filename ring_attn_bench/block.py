"""One rectangle of queries x keys, as a kernel is asked to compute it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ring_attn_bench.positions import Band, Spans, count


class Form(Enum):
    """What a kernel must be able to do to compute a block."""

    FULL = "full"
    """Every row sees every key."""
    CAUSAL = "causal"
    """As many rows as keys; row i sees keys 0 to i, counted inside the block."""
    WINDOW = "window"
    """Row i sees key j iff `block.index_band.allows(i - j)`, counted inside the block."""
    GENERAL = "general"
    """Row i sees key j iff `block.band.allows(position of i - position of j)`."""


@dataclass(frozen=True)
class Block:
    """Global positions of a block's rows and keys, in stored order, and the band allowed between.

    The form is what is left of the band inside the block; a kernel that adds a bias by position
    (ALiBi) needs `rows` and `keys` whatever the form is.
    """

    rows: Spans
    keys: Spans
    band: Band

    @cached_property
    def index_band(self) -> Band | None:
        """The band in indices counted inside the block, or None if there is no such band."""
        if self.band.is_open:
            return self.band
        if len(self.rows) == 1 and len(self.keys) == 1:
            return self.band.between(self.rows[0], self.keys[0])
        if self.rows == self.keys and self.band == Band(low=0):
            return self.band  # the same tokens in increasing order: i sees j iff j <= i
        bands = self._index_bands()
        return Band() if all(band.is_open for band in bands) else None

    @cached_property
    def form(self) -> Form:
        """The least that a kernel must be able to do."""
        band = self.index_band
        if band is None:
            return Form.GENERAL
        if band.is_open:
            return Form.FULL
        square = count(self.rows) == count(self.keys)
        return Form.CAUSAL if square and band == Band(low=0) else Form.WINDOW

    @cached_property
    def area(self) -> int:
        """The number of allowed pairs."""
        spans = [(rows, keys) for rows in self.rows for keys in self.keys]
        bands = self._index_bands()
        return sum(b.area(r.count, k.count) for b, (r, k) in zip(bands, spans, strict=True))

    def _index_bands(self) -> list[Band]:
        return [self.band.between(rows, keys) for rows in self.rows for keys in self.keys]
