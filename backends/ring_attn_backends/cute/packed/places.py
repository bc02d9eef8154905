"""Which tile of which document a program takes, found by a warp of it in the documents' starts.

Tiles of all documents are numbered by what they pass, most first: keys that rows see, or rows that
see keys, in levels of `LEVEL` tokens, and within a level by document. Nothing is sorted: how many
tiles of a document reach a level is arithmetic, so that a level is found by halving, and a document
in it by a running sum. The lanes have a document each, then the next 32.

Lanes' integers; with numpy's the same lines are tested.
"""
# ruff: noqa: ANN001, ANN201 - Python's integers, or a kernel's

from dataclasses import dataclass
from typing import Any

import cutlass
from cutlass import Int32, cute
from cutlass.cute import arch

from ring_attn_backends.cute import lanes

LEVEL = 128
"""Tokens. What tiles differ in by less does not change what a launch takes; a few halvings less."""


@dataclass(frozen=True)  # the compiler takes tuples apart, and a switch in one is then no constant
class Tiling:
    """How documents are cut into tiles: so many rows, or keys, each; low: of the band, by place,
    where the last row and the last key of a document are at one."""

    own: Any
    low: Any
    of_keys: bool

    def owned(self, rows, keys):
        """Tokens that are cut."""
        return keys if self.of_keys else rows

    def count(self, rows, keys):
        """Tiles of a document."""
        return (self.owned(rows, keys) + self.own - 1) // self.own


def reaching(level, sides, tiling):
    """How many tiles of a document with `sides`, rows and keys, are of this level, or a higher one.

    A window's far side is left alone: what lies inside of it is about the same for all tiles.
    """
    rows, keys = sides
    passed = rows if tiling.of_keys else keys
    tiles = tiling.count(rows, keys)
    # the i-th tile, of rows from the last on, of keys from the first, passes so many less i tiles
    least_of_first = keys - tiling.low - level * LEVEL
    some = lanes.least(least_of_first, tiling.owned(rows, keys)) + tiling.own
    some = lanes.least(lanes.most(some, 0) // tiling.own, tiles)
    return (level > 0) * ((passed >= level * LEVEL) * some) + (level <= 0) * tiles


def sides_of(starts, document, documents):
    """Rows and keys of a document; of one that there is not, none."""
    there = document < documents
    at = lanes.least(document, documents - 1)
    return tuple(there * (x[at + 1] - x[at]) for x in starts)


@cute.jit
def all_reaching(level, held, starts, documents, tiling):
    """The same of all documents together; held: sides of the lane's first one."""
    count = reaching(level, held, tiling)
    for first in cutlass.range(arch.WARP_SIZE, documents, arch.WARP_SIZE, unroll=1):
        sides = sides_of(starts, first + arch.lane_idx(), documents)
        count += reaching(level, sides, tiling)
    return together(count)


@cute.jit
def find(number, starts, documents, levels, tiling):
    """The document and the tile of a number, or tile -1 where there are not so many.

    levels: no tile reaches a higher one.
    """
    lane = arch.lane_idx()
    held = sides_of(starts, lane, documents)
    # so many reach the level that the number is among them
    level, above = Int32(0), Int32(levels)
    while level < above:
        middle = (level + above + 1) // 2
        among = Int32(all_reaching(middle, held, starts, documents, tiling) > number)
        level, above = (
            level + among * (middle - level), above + (1 - among) * (middle - 1 - above)
        )  # fmt: skip
    before = all_reaching(level + 1, held, starts, documents, tiling)
    document, tile = Int32(0) * lane, Int32(0) * lane
    for first in cutlass.range(0, documents, arch.WARP_SIZE, unroll=1):
        sides = sides_of(starts, first + lane, documents)
        higher = reaching(level + 1, sides, tiling)
        count = reaching(level, sides, tiling) - higher
        begin = before + up_to(count, lane) - count
        here = Int32(begin <= number) * Int32(number < begin + count)
        nth = higher + number - begin
        if cutlass.const_expr(not tiling.of_keys):
            nth = tiling.count(*sides) - 1 - nth
        document += here * (first + lane)
        tile += here * (nth + 1)
        before += together(count)
    return together(document), together(tile) - 1


def together(x):
    """The sum of all lanes' numbers, in each of them."""
    return arch.warp_redux_sync(x, "add")


def up_to(x, lane):
    """The sum of the numbers of the lanes up to this one."""
    for distance in (1, 2, 4, 8, 16):
        x = x + (lane >= distance) * arch.shuffle_sync_up(x, distance)
    return x
