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

from ring_attn_backends.triton.arguments import int32
from ring_attn_bench.plan.gathered import Gathered, Visit, Visitors, tiles

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
    """The tiles of `block` rows, or keys, of a launch, on the device; `once` makes it only once."""
    lines = where.rows if side == "rows" else where.keys
    numbers, count = rows_of(lines, block, where.step, own_first=own_first)
    table = torch.tensor(numbers, dtype=torch.int32, device="cpu").reshape(-1, FIELDS)
    return Worklist(table.to(device), count)


def rows_of(
    lines: tuple[Visitors, ...], block: int, step: int, *, own_first: bool | None
) -> tuple[list[list[int]], int]:
    """The table's rows, and how many of them are tiles."""
    cut = tiles(lines, block, own_first=own_first)
    at, begins = len(cut), []
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
    for line in lines:
        for visit in line.visits:
            tokens, bounds = visit.tokens, _bounds(line, visit)
            table.append(_row(tokens.start, tokens.stop, *bounds, visit.start, visit.piece))
    return table, len(cut)


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
