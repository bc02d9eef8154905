"""What the programs of a gathered launch do, as rows of integers that they read.

A table has a row for each tile, in the order in which programs take them, then one for each visit:

    tile    first token, token where it stops, row of its first visit, row behind its last one,
            position of its first token, piece
    visit   first token, token where it stops, low, high, position of its first token, piece

Tokens count in their area; row i and key j see each other iff low <= i - j <= high. A row has two
more numbers that mean nothing, so that all begin at multiples of 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_backends.shared.filling import filled_up, into
from ring_attn_backends.triton.arguments import int32
from ring_attn_bench.plan.gathered import Gathered, Visit, Visitors, tiles
from ring_attn_bench.plan.room import Refill, Write, check_fits

if TYPE_CHECKING:
    from ring_attn_backends.triton.launching import Side

FIELDS = 8
"""Integers in a row."""


@dataclass(frozen=True, slots=True)
class Worklist:
    """The table, int32, and how many of its rows are tiles."""

    table: Tensor
    tiles: int


def worklist(
    where: Gathered, side: Side, block: int, device: torch.device, own_first: bool | None = None
) -> Worklist:
    """The tiles of `block` rows, or keys, of a launch, on the device; `once` makes it only once.

    With room for other batches it is one table of all of them, whose last tiles have no tokens.
    """
    place, of_keys = where.place, side == "keys"

    def numbers(where: Gathered) -> tuple[Tensor, int]:
        lines = where.keys if of_keys else where.rows
        room = 0 if place is None else place.tiles(of_keys=of_keys, block=block)
        found, count = rows_of(lines, block, where.step, own_first=own_first, room=room)
        table = torch.tensor(found, dtype=torch.int32, device="cpu").reshape(-1, FIELDS)
        if place is None:
            return table, count
        check_fits("tiles", count, room)
        check_fits("visits", len(table) - count, place.visits())
        return filled_up(table, room + place.visits()), count

    def make() -> Worklist:
        table, count = numbers(where)
        return Worklist(table.to(device), count)

    def refilled(made: Worklist) -> Refill:
        def refill(where: Gathered) -> Write:
            table, _ = numbers(where)
            return lambda: into(made.table, table)

        return refill

    if place is None:
        return make()
    return place.kept(("plain", side, block, device, own_first), make, refilled)


def rows_of(
    lines: tuple[Visitors, ...], block: int, step: int, *, own_first: bool | None, room: int = 0
) -> tuple[list[list[int]], int]:
    """The table's rows, and how many of them are tiles: as many as there is room for, or more."""
    cut = tiles(lines, block, own_first=own_first)
    count = max(len(cut), room)
    at, begins = count, []
    for line in lines:
        begins.append(at)
        at += len(line.visits)
    table = [
        _row(
            tile.tokens.start, tile.tokens.stop,
            begins[tile.line], begins[tile.line] + len(line.visits),
            line.start + step * (tile.tokens.start - line.tokens.start), line.piece,
        )
        for tile in cut for line in (lines[tile.line],)
    ]  # fmt: skip
    table += [[0] * FIELDS] * (count - len(cut))
    for line in lines:
        for visit in line.visits:
            tokens, bounds = visit.tokens, _bounds(line, visit)
            table.append(_row(tokens.start, tokens.stop, *bounds, visit.start, visit.piece))
    return table, count


def _row(first: int, stop: int, third: int, fourth: int, position: int, piece: int) -> list[int]:
    return [first, stop, third, fourth, int32(position), piece, 0, 0]


def _bounds(line: Visitors, visit: Visit) -> tuple[int, int]:
    """The visit's band; an open side closed where it binds no pair, and far ones, for 32 bits."""
    rows, keys = (visit, line) if line.of_keys else (line, visit)
    nearest = rows.tokens.start - keys.tokens.stop
    farthest = rows.tokens.stop - keys.tokens.start
    low = nearest if visit.band.low is None else visit.band.low
    high = farthest if visit.band.high is None else visit.band.high
    return min(max(low, nearest), farthest), max(min(high, farthest), nearest)
