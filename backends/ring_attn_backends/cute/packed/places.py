"""Which tile of which document a program takes, found by a warp of it in the documents' starts.

Tiles of all documents are numbered by what they pass, most first: keys that rows see, or rows that
see keys, in 16 levels, and within a level by document. Nothing is sorted: how many tiles of a
document reach a level is arithmetic, so that three levels are asked at once for the number's own,
twice, and a running sum over documents says which of them has it. Each lane has a document, and
then the next 32.

Lanes' integers; with numpy's the same lines are tested.
"""
# ruff: noqa: ANN001, ANN201 - Python's integers, or a kernel's

from dataclasses import dataclass
from typing import Any, NamedTuple

import cutlass
from cutlass import Int32, cute
from cutlass.cute import arch

from ring_attn_backends.cute import lanes

LEVELS = 16
STEPS = (4, 1)
"""Levels between those that are asked at once: three, by which the number's is one of four."""


class Sides(NamedTuple):
    """A document: its first row, how many, its first key, how many."""

    first_row: Any
    rows: Any
    first_key: Any
    keys: Any


@dataclass(frozen=True)  # the compiler takes tuples apart, and a switch in one is then no constant
class Tiling:
    """How documents are cut into tiles: so many rows, or keys, each; low: of the band, by place,
    where the last row and the last key of a document are at one."""

    own: Any
    low: Any
    of_keys: bool

    def owned(self, sides):
        """Tokens that are cut."""
        return sides.keys if self.of_keys else sides.rows

    def passed(self, sides):
        """Tokens that tiles pass, at most."""
        return sides.rows if self.of_keys else sides.keys

    def count(self, sides):
        """Tiles of a document."""
        return (self.owned(sides) + self.own - 1) // self.own


def reaching(level, size, sides, tiling):
    """How many tiles of a document are of this level, or a higher one; size: of a level, in tokens.

    A window's far side is left alone: what lies inside of it is about the same for all tiles.
    """
    tiles, least = tiling.count(sides), level * size
    # the i-th tile, of rows from the last on, of keys from the first, passes so many less i tiles
    of_first = sides.keys - tiling.low - least
    some = lanes.most(lanes.least(of_first, tiling.owned(sides)) + tiling.own, 0) // tiling.own
    some = (tiling.passed(sides) >= least) * lanes.least(some, tiles)
    return (level > 0) * some + (level <= 0) * tiles


def sides_of(starts, document, documents):
    """A document's sides; of one that there is not, none."""
    there = document < documents
    at = lanes.least(document, documents - 1)
    rows, keys = ((x[at], x[at + 1]) for x in starts)
    return Sides(rows[0], there * (rows[1] - rows[0]), keys[0], there * (keys[1] - keys[0]))


@cute.jit
def longest(held, starts, documents, tiling):
    """The most tokens that a tile may pass; held: sides of the lane's first document."""
    found = tiling.passed(held)
    for first in cutlass.range(arch.WARP_SIZE, documents, arch.WARP_SIZE, unroll=1):
        sides = sides_of(starts, first + arch.lane_idx(), documents)
        found = lanes.most(found, tiling.passed(sides))
    return arch.warp_redux_sync(found, "max")


@cute.jit
def all_reaching(levels, size, held, starts, documents, tiling):
    """The same as `reaching` of all documents together, for each of the levels."""
    counts = [reaching(level, size, held, tiling) for level in levels]
    for first in cutlass.range(arch.WARP_SIZE, documents, arch.WARP_SIZE, unroll=1):
        sides = sides_of(starts, first + arch.lane_idx(), documents)
        counts = [
            count + reaching(level, size, sides, tiling)
            for count, level in zip(counts, levels, strict=True)
        ]
    return [arch.warp_redux_sync(count, "add") for count in counts]


@cute.jit
def find(into, number, starts, documents, tiling):
    """Writes down the tile of a number and its document's sides, or tile -1 if there is none.

    into: six integers, the tile, its document and the sides.
    """
    lane = arch.lane_idx()
    held = sides_of(starts, lane, documents)
    told = held, starts, documents, tiling
    size = longest(*told) // LEVELS + 1
    level = Int32(0)
    for step in cutlass.range_constexpr(len(STEPS)):
        asked = [level + STEPS[step] * i for i in (1, 2, 3)]
        reached = all_reaching(asked, size, *told)
        level += STEPS[step] * sum(Int32(count > number) for count in reached)
    (before,) = all_reaching([level + 1], size, *told)
    write(into, lane == 0, (Int32(-1),))
    arch.sync_warp()
    before = look(into, number, level, size, before, held, lane, tiling)
    for first in cutlass.range(arch.WARP_SIZE, documents, arch.WARP_SIZE, unroll=1):
        sides = sides_of(starts, first + lane, documents)
        before = look(into, number, level, size, before, sides, first + lane, tiling)


def look(into, number, level, size, before, sides, document, tiling):
    """Writes the number's place down if it is in one of the lanes' documents.

    level: the number's own. before: the first number in these documents; returns that of the next.
    """
    higher = reaching(level + 1, size, sides, tiling)
    count = reaching(level, size, sides, tiling) - higher
    stop = before + up_to(count)
    nth = number - (stop - count)
    tile = higher + nth
    if not tiling.of_keys:
        tile = tiling.count(sides) - 1 - tile
    write(into, (nth >= 0) & (number < stop), (tile, document, *sides))
    return before + arch.warp_redux_sync(count, "add")


@cute.jit
def write(into, here, numbers):
    """Of the lanes that are `here`, their numbers."""
    if here:
        for i in cutlass.range_constexpr(len(numbers)):
            into[i] = numbers[i]


def up_to(x):
    """The sum of the numbers of the lanes up to this one."""
    for distance in (1, 2, 4, 8, 16):
        x = x + (arch.lane_idx() >= distance) * arch.shuffle_sync_up(x, distance)
    return x
