"""The table of a gathered launch says what the launch does, in integers of 32 bits."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.shared import once
from ring_attn_backends.triton.plain.gathered.worklist import FIELDS, worklist

from ring_attn_bench.plan.gathered import Visit, Visitors, gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.positions import Band, Range, Span
from tests.unit.plan.test_gathered import bands, pairs, rings

CPU = torch.device("cpu")


def read(work, *, of_keys):
    """The tiles as lines of their own, each with its visits, and what is to be ignored."""
    table = work.table.tolist()
    assert all(len(row) == FIELDS for row in table)

    def visit(row):
        first, stop, low, high, position, piece, *_ = row
        return Visit(piece, Range(first, stop), Band(low, high), position)

    return tuple(
        Visitors(piece, Range(first, stop), position, tuple(map(visit, table[begin:end])), of_keys)
        for first, stop, begin, end, position, piece, *_ in table[: work.tiles]
    )


@given(rings(), bands, st.integers(1, 9), st.booleans())
def test_the_table_has_every_allowed_pair_once(ring, band, block, own_first):
    found = gathered(*ring, band, join=False)
    for side, lines in (("rows", found.rows), ("keys", found.keys)):
        work = worklist(found, side, block, CPU, own_first=own_first)
        tiles = read(work, of_keys=side == "keys")
        assert pairs(tiles) == pairs(lines)
        starts = {
            (line.piece, i): line.start + found.step * (i - line.tokens.start)
            for line in lines
            for i in range(line.tokens.start, line.tokens.stop)
        }
        assert all(starts[t.piece, t.tokens.start] == t.start for t in tiles)
        pieces = [tile.piece for tile in tiles]
        own = [piece == 0 for piece in pieces]
        assert own == sorted(own, reverse=own_first)


@pytest.mark.parametrize("band", [Band(), Band(0), Band(-(2**45), 2**44), Band(high=2**50)])
def test_every_number_fits_into_32_bits(band):
    rows = chunks([Span(2**40, 9), Span(2**33, 5)])
    keys = [(0, c) for c in rows] + [(1, c) for c in chunks([Span(7, 9)], 2**29)]
    found = gathered(rows, keys, band, join=False)
    for side in ("rows", "keys"):
        table = worklist(found, side, 4, CPU).table
        assert table.dtype is torch.int32
        assert int(table[:, :4].abs().max()) <= 2**29 + 14


def test_a_table_is_made_once_and_goes_with_its_launch():
    rows = chunks([Span(0, 9)])
    where = gathered(rows, [(0, c) for c in rows], Band(), join=True)
    before = len(once._kept)
    first = once.once(where, worklist, "rows", 4, CPU)
    assert once.once(where, worklist, "rows", 4, CPU) is first
    assert once.once(where, worklist, "rows", 8, CPU) is not first
    assert len(once._kept) == before + 1
    del where
    gc.collect()
    assert len(once._kept) == before
