"""A line of the coverage matrix: a feature, and the cases in which a backend has to show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ring_attn_bench.conformance.cases import AnyCase
from ring_attn_bench.plan.problem import DtypeName


class Asks(Enum):
    """What is asked about a feature's cases."""

    RESULTS = "results"
    """Whether the results are right."""
    TWO_BLOCKS = "two blocks"
    """Whether those of a row's first keys and of the rest add up to those of the whole row."""
    IN_PLACE = "in place"
    """The same, where the backend adds its blocks to what is there."""
    REPEATS = "repeats"
    """Whether they are right, and the same bit for bit each time, where that is asked for."""


@dataclass(frozen=True)
class Feature:
    """A feature by its name in coverage.csv, and what it is called in pictures.

    cases: the first is small and telling; a quick look is at that one only.
    gpu_cases: more of them, of several tiles, which take too long on a CPU.
    own_dtype: whether the cases are of one dtype each; else a backend is asked in any that it has.
    """

    name: str
    title: str
    cases: tuple[AnyCase, ...]
    gpu_cases: tuple[AnyCase, ...] = ()
    asks: Asks = Asks.RESULTS
    own_dtype: bool = False

    def chosen(self, device: str, dtype: DtypeName, *, quick: bool = False) -> tuple[AnyCase, ...]:
        """The cases to ask, in that dtype unless they have their own."""
        cases = self.cases if device == "cpu" else self.cases + self.gpu_cases
        cases = cases[:1] if quick else cases
        return cases if self.own_dtype else tuple(replace(case, dtype=dtype) for case in cases)


@dataclass(frozen=True)
class Chapter:
    """Features that are shown together."""

    title: str
    features: tuple[Feature, ...]
