"""The tiles of a gathered launch and what each visits, counted out on the host for the programs.

Both families of Hopper kernels, in Triton and in CuTe DSL, walk these tables.

A program finds its tile by its number, the heaviest first, and the tile's entries: runs of tiles of
the other side, none of them empty. All in int32, in rows of these columns:

    tile    first token, where its line stops, its first entry, the one after its last, piece
    entry   first token and length of what is visited; low and high; piece; start, before, whole,
            edges as `_seen` counts them

Tokens are counted in their area, but for those of an entry's side in the band: low and high are of
row - key with the entry's tokens counted from its first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ring_attn_backends.shared.filling import filled_up, into
from ring_attn_bench.plan.gathered import Gathered, Tile, Visit, Visitors, tiles
from ring_attn_bench.plan.room import Refill, Write, check_fits

TILE, ENTRY = 5, 9
"""Columns of a row."""
FAR = 2**30
"""An open side of a band: more tokens than there may be."""


@dataclass(frozen=True, slots=True)
class Worklist:
    """tiles (count, TILE) and entries (n, ENTRY), int32."""

    tiles: Tensor
    entries: Tensor

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.tiles.shape[0]


def worklist(
    where: Gathered, side: Literal["rows", "keys"], own: int, other: int, device: torch.device,
    own_first: bool | None = None,
) -> Worklist:  # fmt: skip
    """Of tiles of `own` tokens of a side that visit tiles of `other`; `once` makes it only once.

    With room for other batches it is one of all of them, whose last tiles have no tokens.
    """
    place, of_keys = where.place, side == "keys"
    if place is None:
        return Worklist(*(x.to(device) for x in numbers_of(where, of_keys, own, other, own_first)))
    room = place.tiles(of_keys=of_keys, block=own), place.entries(of_keys=of_keys, block=own)

    def numbers(where: Gathered) -> list[Tensor]:
        found = numbers_of(where, of_keys, own, other, own_first)
        for what, x, most in zip(("tiles", "visits"), found, room, strict=True):
            check_fits(what, len(x), most)
        return [filled_up(x, most) for x, most in zip(found, room, strict=True)]

    def make() -> Worklist:
        return Worklist(*(x.to(device) for x in numbers(where)))

    def refilled(made: Worklist) -> Refill:
        def refill(where: Gathered) -> Write:
            tables = numbers(where)

            def write() -> None:
                into(made.tiles, tables[0])
                into(made.entries, tables[1])

            return write

        return refill

    return place.kept(("hopper", side, own, other, device, own_first), make, refilled)


def numbers_of(
    where: Gathered, of_keys: bool, own: int, other: int, own_first: bool | None
) -> tuple[Tensor, Tensor]:
    """Tiles and entries, on the host."""
    lines = where.keys if of_keys else where.rows
    table: list[list[int]] = []
    entries: list[list[int]] = []
    for tile in tiles(lines, own, own_first=own_first):
        line, first = lines[tile.line], len(entries)
        entries += _entries(tile, line, other)
        table.append([tile.tokens.start, line.tokens.stop, first, len(entries), line.piece])
    return _table(table, TILE), _table(entries, ENTRY)


def _entries(tile: Tile, line: Visitors, block: int) -> list[list[int]]:
    rows = []
    for visit in line.visits:
        low, high = _band(visit, of_keys=line.of_keys)
        below, above = (low, high) if line.of_keys else (-high, -low)
        length = len(visit.tokens)
        first, last = tile.tokens.start, tile.tokens.stop - 1
        seen = _seen(first + below, last + below, first + above, last + above, length, block)
        if seen[2] + seen[3]:
            rows.append([visit.tokens.start, length, low, high, visit.piece, *seen])
    return rows


def _band(visit: Visit, *, of_keys: bool) -> tuple[int, int]:
    low, high = visit.band.low, visit.band.high
    shift = -visit.tokens.start if of_keys else visit.tokens.start
    return (
        -FAR if low is None else max(low + shift, -FAR),
        FAR if high is None else min(high + shift, FAR),
    )


def _seen(
    first_below: int, last_below: int, first_above: int, last_above: int, length: int, block: int
) -> tuple[int, int, int, int]:
    """start, before, whole, edges in tiles of a block: `edges + whole` of them, from `start` on.

    The whole ones, of which every pair is allowed, come after `before` of them.
    """
    start = max(first_below, 0) // block
    stop = max(-(-max(min(last_above + 1, length), 0) // block), start)
    whole_start = min(-(-max(last_below, 0) // block), stop)
    whole_stop = max(min(first_above + 1, length), 0) // block
    whole = max(whole_stop - whole_start, 0)
    return start, whole_start - start, whole, stop - start - whole


def _table(rows: Sequence[Sequence[int]], columns: int) -> Tensor:
    table = torch.tensor(rows or [[0] * columns], dtype=torch.int32, device="cpu")
    return table[: len(rows)]
