"""One rectangle of queries x keys, as a kernel is asked to compute it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ring_attn_bench.plan.positions import Band, Spans, count


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


class Alibi(Enum):
    """How a kernel adds ALiBi's bias, -slope * |distance of query and key|."""

    NONE = "none"
    """The kernel cannot add it."""
    INDEX = "index"
    """As -slope * |i + N - M - j|, i and j counted inside a block of M rows and N keys: flash-attn
    2's bias."""
    POSITION = "position"
    """From the positions of the block's rows and keys, in every form that it can do."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """The blocks that a kernel can be given.

    index_alibi: whether it must add ALiBi's bias and can only do so by index (`Alibi.INDEX`).
    gathers: whether it takes the keys of many ranks in one launch (`backend.GatheringBackend`).
    positions: whether it must know where tokens are, for ALiBi's bias or dropout.
    rounds: whether its gradients are in the inputs' dtype (`Backend.rounds_gradients`).
    packs: whether it takes documents packed (`backend.PackedBackend`), and so many in one launch.
    """

    forms: frozenset[Form]
    index_alibi: bool = False
    gathers: bool = False
    positions: bool = False
    rounds: bool = False
    packs: bool = False


@dataclass(frozen=True, slots=True)
class IndexAlibi:
    """How the distance in positions follows from indices: step * (i + N - M - j) + offset.

    A kernel's bias by index is ALiBi's with slopes `step` times as large, but for the constant
    -slope * offset, which a softmax ignores and an lse shows.
    """

    step: int
    offset: int


@dataclass(frozen=True)
class Block:
    """Global positions of a block's rows and keys, in stored order, and the band allowed between.

    The form is what is left of the band inside the block; a kernel that adds a bias by position
    (ALiBi) needs `rows` and `keys` whatever the form is.
    """

    rows: Spans
    keys: Spans
    band: Band

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # kept, because launches are found by their block: 2 us of the host's time
        return hash((self.rows, self.keys, self.band))

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
        square = self.row_count == self.key_count
        return Form.CAUSAL if square and band == Band(low=0) else Form.WINDOW

    @cached_property
    def row_count(self) -> int:
        """The number of rows, M."""
        return count(self.rows)

    @cached_property
    def key_count(self) -> int:
        """The number of keys, N."""
        return count(self.keys)

    @cached_property
    def window(self) -> tuple[int | None, int | None]:
        """The keys before and after a row that it sees, None for all, where the last row and the
        last key count as one place (flash-attn's alignment at the bottom right).

        Never negative in a block whose rows and keys all see or are seen.
        """
        band, shift = self.index_band, self.key_count - self.row_count
        assert band is not None  # the form would be GENERAL
        return (
            None if band.high is None else band.high + shift,
            None if band.low is None else -band.low - shift,
        )

    @cached_property
    def index_alibi(self) -> IndexAlibi | None:
        """What makes a bias by index ALiBi's, or None where nothing does.

        Where every allowed pair has its key at or before its query, in positions and in indices,
        both biases are linear and differ by a constant; elsewhere only an offset of 0 will do.
        """
        band = self.index_band
        if band is None or len(self.rows) != 1 or len(self.keys) != 1:
            return None
        rows, keys = self.rows[0], self.keys[0]
        if rows.step != keys.step and rows.count > 1 and keys.count > 1:
            return None
        step = keys.step if rows.count == 1 else rows.step
        shift = keys.count - rows.count
        offset = rows.start - keys.start - step * shift
        looks_back = band.low is not None and band.low + shift >= 0
        return IndexAlibi(step, offset) if offset == 0 or (looks_back and offset > 0) else None

    @cached_property
    def area(self) -> int:
        """The number of allowed pairs."""
        spans = [(rows, keys) for rows in self.rows for keys in self.keys]
        bands = self._index_bands()
        return sum(b.area(r.count, k.count) for b, (r, k) in zip(bands, spans, strict=True))

    def _index_bands(self) -> list[Band]:
        return [self.band.between(rows, keys) for rows in self.rows for keys in self.keys]
