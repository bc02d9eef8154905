"""What lands on a rank at once, and groups of ranks whose keys fit. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from ring_attn_bench.plan.fetches import fetches_of
from ring_attn_bench.plan.layout import Layout

Needs = tuple[tuple[int, ...], ...]
"""By ring offset, from 1 on, and by rank: tokens that it fetches from the rank at that offset."""


def needs(layout: Layout) -> Needs:
    """What plans of such a ring fetch, however their steps are grouped."""
    ranks, offsets = range(layout.world_size), range(1, layout.world_size)

    def fetched(rank: int, offset: int) -> int:
        return sum(len(fetch.tokens) for fetch in fetches_of(layout, rank, (offset,)))

    return tuple(tuple(fetched(rank, offset) for rank in ranks) for offset in offsets)


def largest(fetched: Needs, sizes: Iterable[int]) -> int:
    """Tokens of the largest landing area, on whichever rank: steps of so many offsets each."""
    most, start = 0, 0
    for size in sizes:
        most, start = max(most, _area(fetched[start : start + size])), start + size
    return most


def groups(fetched: Needs, area: int, limits: Iterable[int]) -> tuple[int, ...] | None:
    """Sizes of steps in turn, each as large as an area of so many tokens and its limit allow.

    limits: the most ranks of the first step, the second, ...; at least as many as there are ranks.
    None where the keys of some one rank do not fit.
    """
    sizes: list[int] = []
    start = 0
    for limit in limits:
        fits = 0
        while fits < min(limit, len(fetched) - start):
            if _area(fetched[start : start + fits + 1]) > area:
                break
            fits += 1
        if start == len(fetched):
            break
        if not fits:
            return None
        sizes.append(fits)
        start += fits
    return tuple(sizes)


def _area(offsets: Needs) -> int:
    return max((sum(of_rank) for of_rank in zip(*offsets, strict=True)), default=0)
