"""What the programs of a Hopper kernel for gathered keys visit, against all pairs of tokens."""

import gc
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.shared import once
from ring_attn_backends.shared.worklist import ENTRY, FAR, TILE, worklist

from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.positions import Band, Range, Span
from tests.unit.plan.test_gathered import bands, pairs, rings

CPU = torch.device("cpu")


def tokens(work, own):
    """By tile, in their order: its piece, its tokens as a program computes them, its entries."""
    entries = work.entries.tolist()
    for first, stop, begin, end, piece in work.tiles.tolist():
        assert first < stop
        yield piece, Range(first, min(first + own, stop)), entries[begin:end]


def visited(start, before, whole, edges, block):
    """The tiles of the other side, as `programs.nth` numbers them: first tokens, whole or not."""
    for index in range(edges + whole):
        if index < edges:
            yield (start + index + (whole if index >= before else 0)) * block, False
        else:
            yield (start + before + index - edges) * block, True


def computed(work, own, block, *, of_keys):
    """(row, piece, key) of every pair that a kernel computes, and how often."""
    found: Counter = Counter()
    for piece, mine, entries in tokens(work, own):
        for entry in entries:
            first, length, low, high, other_piece, *where = entry
            assert where[2] + where[3] > 0, "an empty visit"
            for at, is_whole in visited(*where, block):
                assert 0 <= at < length, "a tile of nothing"
                assert not is_whole or at + block <= length, "no program masks a whole tile's end"
                theirs = range(at, min(at + block, length))
                for x, y in product(range(mine.start, mine.stop), theirs):
                    row, key = (y, x) if of_keys else (x, y)
                    inside = low <= row - key <= high
                    assert inside or not is_whole, "no program masks a whole tile"
                    row, key = (first + y, x) if of_keys else (x, first + y)
                    found[row, piece if of_keys else other_piece, key] += inside
    return +found


sizes = st.sampled_from([1, 2, 3, 4, 8])


@given(rings(), bands, sizes, sizes, st.booleans())
def test_programs_compute_every_allowed_pair_once(ring, band, own, block, join):
    where = gathered(*ring, band, join=join)
    for side, lines in (("rows", where.rows), ("keys", where.keys)):
        work = worklist(where, side, own, block, CPU)
        assert computed(work, own, block, of_keys=side == "keys") == pairs(lines)


@given(rings(), bands, sizes, st.sampled_from([None, True, False]))
def test_tiles_are_all_tokens_the_heaviest_first_and_visit_in_the_order_of_arrival(
    ring, band, own, own_first
):
    where = gathered(*ring, band, join=True)
    for side, lines in (("rows", where.rows), ("keys", where.keys)):
        work = worklist(where, side, own, 2, CPU, own_first=own_first)
        assert (work.tiles.shape, work.entries.shape[1]) == ((work.count, TILE), ENTRY)
        assert work.tiles.dtype is work.entries.dtype is torch.int32
        found = list(tokens(work, own))
        seen = Counter((p, i) for p, mine, _ in found for i in range(mine.start, mine.stop))
        assert seen == Counter(
            (line.piece, i) for line in lines for i in range(line.tokens.start, line.tokens.stop)
        )
        for _, _, entries in found:
            assert [e[4] for e in entries] == sorted(e[4] for e in entries)
        if own_first is not None:
            is_own = [piece == 0 for piece, _, _ in found]
            assert is_own == sorted(is_own, reverse=own_first)


def test_a_causal_line_of_whole_tiles_masks_its_diagonal_alone():
    rows = chunks([Span(256, 256)])
    keys = [(0, rows[0]), (1, chunks([Span(0, 256)])[0])]
    work = worklist(gathered(rows, keys, Band(low=0), join=True), "rows", 128, 64, CPU)

    # the later tile first; piece, then start, before, whole, edges
    assert work.tiles.tolist() == [[128, 256, 0, 2, 0], [0, 256, 2, 4, 0]]
    assert [entry[4:] for entry in work.entries.tolist()] == [
        [0, 0, 0, 2, 2], [1, 0, 0, 4, 0],
        [0, 0, 0, 0, 2], [1, 0, 0, 4, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("band", [Band(), Band(0), Band(-(2**45), 2**44), Band(high=2**50)])
def test_every_number_fits_into_32_bits(band):
    rows = chunks([Span(2**40, 9), Span(2**33, 5)])
    keys = [(0, c) for c in rows] + [(1, c) for c in chunks([Span(7, 9)], 2**29)]
    where = gathered(rows, keys, band, join=False)
    for side in ("rows", "keys"):
        work = worklist(where, side, 4, 4, CPU)
        assert int(work.entries[:, 2:4].abs().max()) <= FAR
        assert computed(work, 4, 4, of_keys=side == "keys") == pairs(
            where.rows if side == "rows" else where.keys
        )


def test_a_worklist_is_made_once_and_goes_with_its_launch():
    rows = chunks([Span(0, 9)])
    where = gathered(rows, [(0, c) for c in rows], Band(), join=True)
    before = len(once._kept)
    first = once.once(where, worklist, "rows", 4, 4, CPU)
    assert once.once(where, worklist, "rows", 4, 4, CPU) is first
    assert once.once(where, worklist, "rows", 4, 8, CPU) is not first
    assert len(once._kept) == before + 1
    del where
    gc.collect()
    assert len(once._kept) == before
