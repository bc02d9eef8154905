"""What makes a case one of attention over a cache, and not of a whole sequence: queries at its end.

The case's own `seqlen_total` is what each entry holds, with what the call puts into it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from ring_attn_bench.records.values import Count, Frozen, Size

Rotary = Literal["pairs", "halves"]
"""Which columns of a head are rotated together: 2i and 2i + 1, or i and i + half."""
DEALT = "blocks"
"""The partition of a cache that is dealt to ranks."""
BLOCK = 64
"""Tokens of it that stay together."""


class CacheShape(Frozen):
    """Queries over a cache. Lengths are in tokens.

    queries: of each entry, the last ones of it. page: tokens of a page, which lie scattered; None
    is a row for each entry. append: whether the call puts the queries' own tokens into the cache.
    rotary: whether it rotates them and the queries, all columns. leftpad: at the beginning of each
    entry, not there. splits: programs that share the keys of a head; 0 is the kernel's choice.
    head_dim_v: of v, where it is another than that of q and k.
    latent: whether v is the first of k's columns, in the same memory.
    """

    queries: Size
    page: Size | None = None
    append: bool = False
    rotary: Rotary | None = None
    leftpad: Count = 0
    splits: Count = 0
    head_dim_v: Size | None = None
    latent: bool = False

    @model_validator(mode="after")
    def _says_how_many_columns_are_v(self) -> Self:
        if self.latent and self.head_dim_v is None:
            raise ValueError(
                "v is the first columns of latent keys, and head_dim_v does not say how many"
            )
        if self.latent and self.append:
            raise ValueError(
                "nothing is appended to latent keys, whose values are in the same memory"
            )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """For people: 1 query over a cache, page 16, append."""
        queries = "1 query" if self.queries == 1 else f"{self.queries:,} queries"
        return (f"{queries} over a cache", *self.details)

    @property
    def details(self) -> tuple[str, ...]:
        """What there is but the queries: page 16, append."""
        told = {
            "page": self.page, "rotary": self.rotary, "leftpad": self.leftpad,
            "splits": self.splits, "head dim of v": self.head_dim_v,
        }  # fmt: skip
        numbers = tuple(f"{name} {value}" for name, value in told.items() if value)
        return (*numbers, *self._said)

    @property
    def slug(self) -> tuple[str, ...]:
        """Parts of a case's name: q1, page16."""
        parts = {
            "page": self.page, "rotary-": self.rotary, "leftpad": self.leftpad,
            "splits": self.splits, "dv": self.head_dim_v,
        }  # fmt: skip
        named = tuple(f"{name}{value}" for name, value in parts.items() if value)
        return (f"q{self.queries}", *named, *self._said)

    @property
    def _said(self) -> tuple[str, ...]:
        """What is so or is not, by name."""
        return tuple(name for name in ("latent", "append") if getattr(self, name))
