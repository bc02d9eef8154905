"""What is asked for, a block or packed documents, in the numbers that grids and kernels take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ring_attn_backends.triton.arguments import band_of
from ring_attn_backends.triton.lines import Places
from ring_attn_bench.plan.problem import Documents

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.cache import CachedCall
    from ring_attn_bench.plan.block import Block


@dataclass(frozen=True, slots=True)
class Extent:
    """Entries, shares of them or documents, and how many rows and keys each has at most.

    low, high: the band, by index. cu_rows, cu_keys: cu_seqlens, or None; cu_keys alone is the table
    of `cached.extents`. ragged: whether programs of an entry differ in how many tiles they visit.
    """

    entries: int
    rows: int
    keys: int
    low: int
    high: int
    ragged: bool
    cu_rows: Tensor | None = None
    cu_keys: Tensor | None = None

    @classmethod
    def of(cls, where: Block | Documents, batch: int) -> Extent:
        """A block has as many entries as the batch."""
        if isinstance(where, Documents):
            return cls(
                len(where.cu_seqlens_q) - 1, where.max_seqlen_q, where.max_seqlen_k,
                *band_of(where.mask), not where.mask.band.is_open,
                where.cu_seqlens_q, where.cu_seqlens_k,
            )  # fmt: skip
        places, band = Places.of(where, positions=False), where.index_band
        return cls(
            batch, places.rows.count, places.keys.count, places.low, places.high,
            band is None or not band.is_open,
        )  # fmt: skip

    @classmethod
    def of_cache(cls, call: CachedCall, table: Tensor) -> Extent:
        """Queries (B, M, H, D) over rows of a cache, or their shares: a line of the table each."""
        return cls(
            len(table), call.q.shape[1], call.cache.k.shape[1], *band_of(call.mask), True,
            cu_keys=table,
        )  # fmt: skip

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute, and a grid would have no programs."""
        return 0 in (self.entries, self.rows, self.keys)

    @property
    def packed(self) -> bool:
        """Whether it is documents, in one batch entry."""
        return self.cu_rows is not None

    @property
    def packed_keys(self) -> bool:
        """Whether the keys of an entry may lie anywhere in a row of all tokens."""
        return self.cu_keys is not None
