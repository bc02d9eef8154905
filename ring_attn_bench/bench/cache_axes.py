"""The axes of a grid whose cases are over a cache."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from ring_attn_bench.plan.cached import MOST_SPLITS
from ring_attn_bench.records.cache_shape import CacheShape, Rotary
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.values import MOST, Frozen
from ring_attn_bench.ring.options import DEFAULTS

UNSET = "unset"
"""What stands for None, which TOML cannot say; results.csv says so too."""
Value = TypeVar("Value")


def _or_none(value: object) -> object:
    return None if value == UNSET else value


_Length = Annotated[int, Field(gt=0, le=MOST, strict=True)]
_Unless = BeforeValidator(_or_none)
_Lengths = Annotated[list[Annotated[_Length | None, _Unless]], Field(min_length=1)]


class CacheAxes(Frozen):
    """Of every case over a cache, in place of those of a ring: see `CacheShape`."""

    queries: _Lengths = [None]
    """Of each entry over a cache; None is attention of whole sequences, over none."""
    page: _Lengths = [None]
    append: Annotated[list[Annotated[bool, Field(strict=True)]], Field(min_length=1)] = [False]
    rotary: Annotated[list[Annotated[Rotary | None, _Unless]], Field(min_length=1)] = [None]
    leftpad: Annotated[
        list[Annotated[int, Field(ge=0, le=MOST, strict=True)]], Field(min_length=1)
    ] = [0]
    splits: Annotated[
        list[Annotated[int, Field(ge=0, le=MOST_SPLITS, strict=True)]], Field(min_length=1)
    ] = [0]
    head_dim_v: _Lengths = [None]
    latent: Annotated[list[Annotated[bool, Field(strict=True)]], Field(min_length=1)] = [False]

    @property
    def is_over_a_cache(self) -> bool:
        """Whether its cases are."""
        return self.queries != [None]

    def caches(self) -> list[CacheShape | None]:
        """Every combination; [None] where there is no cache."""
        if not self.is_over_a_cache:
            return [None]
        axes = (getattr(self, name) for name in CacheAxes.model_fields)
        made = (dict(zip(CacheAxes.model_fields, values, strict=True)) for values in product(*axes))
        return [CacheShape(**values) for values in made]

    @model_validator(mode="after")
    def _has_a_cache_for_what_is_said_of_one(self) -> Self:
        if None in self.queries and self.is_over_a_cache:
            raise ValueError(
                f"queries is both numbers and {UNSET!r}; a grid's cases are all over a cache, or "
                "none is: make two grids"
            )
        told = [name for name in self._set_of(CacheAxes.model_fields) if name != "queries"]
        if told and not self.is_over_a_cache:
            raise ValueError(
                f"{told[0]} is of a cache, and this grid has none; say in queries how many there "
                "are of each entry, as queries = [1]"
            )
        return self

    @model_validator(mode="after")
    def _is_a_step_over_a_cache(self) -> Self:
        if not self.is_over_a_cache:
            return self
        if getattr(self, "directions", None) != [Direction.FORWARD]:
            raise ValueError('over a cache there is no backward; say directions = ["forward"]')
        if of_ring := self._set_of(("partitions", "documents", *DEFAULTS)):
            raise ValueError(
                f"{of_ring[0]} is of a ring, and a cache is dealt to ranks by blocks, whose "
                "results one collective joins; leave it out where there are queries"
            )
        if any(self.rotary) and not all(self.append):
            raise ValueError(
                "rotary turns what is appended, and keys of the cache are taken to be turned; "
                "say append = [true]"
            )
        return self

    @model_validator(mode="after")
    def _has_latent_keys_that_can_be(self) -> Self:
        if any(self.latent) and None in self.head_dim_v:
            raise ValueError(
                "v is the first columns of latent keys; say how many in head_dim_v, as "
                "head_dim_v = [512]"
            )
        if any(self.latent) and any(self.append):
            raise ValueError(
                "nothing is appended to latent keys, whose values are in the same memory; leave "
                "append out"
            )
        return self

    def _set_of(self, names: Any) -> list[str]:  # noqa: ANN401 - any names
        """Those of the keys that the file has, and with another value than is there anyway."""
        fields = type(self).model_fields
        given = (name for name in names if name in self.model_fields_set)
        return [name for name in given if getattr(self, name) != fields[name].default]
