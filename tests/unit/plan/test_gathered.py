"""A gathered launch visits every allowed pair once and nothing else, whatever the partition."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.plan.gathered import Gathered, Visitors, gathered, tiles
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band, Range, Span, part

bounds = st.none() | st.integers(-5, 40)
bands = st.builds(Band, low=bounds, high=bounds)


@st.composite
def rings(draw):
    """Rows of a rank, its keys by piece in some order of arrival, each with its global position."""
    name = draw(st.sampled_from(sorted(PARTITIONS)))
    world, tokens = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 7))
    rank = draw(st.integers(0, world - 1))
    others = draw(st.permutations([r for r in range(world) if r != rank]))
    spans = [PARTITIONS[name].spans(r, world, tokens) for r in (rank, *others)]
    keys, at = [(0, chunk) for chunk in chunks(spans[0])], 0
    for piece, shard in enumerate(spans[1:], 1):
        start = draw(st.integers(0, tokens - 1))
        fetched = part(shard, Range(start, draw(st.integers(start + 1, tokens))))
        keys += [(piece, chunk) for chunk in chunks(fetched, at)]
        at += sum(span.count for span in fetched)
    return chunks(spans[0]), keys


def position(chunk_list, index: int) -> int:
    (chunk,) = [c for c in chunk_list if c.tokens.start <= index < c.tokens.stop]
    return list(chunk.span.positions())[index - chunk.tokens.start]


def pairs(lines: tuple[Visitors, ...]) -> Counter:
    """(row, piece, key) of every pair that the lines' visits allow."""
    found: Counter = Counter()
    for line in lines:
        for visit in line.visits:
            for mine in range(line.tokens.start, line.tokens.stop):
                for theirs in range(visit.tokens.start, visit.tokens.stop):
                    row, key = (theirs, mine) if line.of_keys else (mine, theirs)
                    if visit.band.allows(row - key):
                        found[row, line.piece if line.of_keys else visit.piece, key] += 1
    return found


def expected(rows, keys, band: Band) -> Counter:
    return Counter(
        (row.tokens.start + i, piece, key.tokens.start + j)
        for row in rows
        for i, p in enumerate(row.span.positions())
        for piece, key in keys
        for j, q in enumerate(key.span.positions())
        if band.allows(p - q)
    )


@given(rings(), bands, st.booleans())
def test_queries_and_keys_visit_every_allowed_pair_once(ring, band, join):
    rows, keys = ring
    found = gathered(rows, keys, band, join=join)
    wanted = expected(rows, keys, band)
    assert pairs(found.rows) == wanted
    assert pairs(found.keys) == wanted


@given(rings(), bands)
def test_visits_come_in_the_order_of_arrival(ring, band):
    found = gathered(*ring, band, join=True)
    for line in found.rows:
        assert [v.piece for v in line.visits] == sorted(v.piece for v in line.visits)


@given(rings(), bands)
def test_without_joining_a_visit_is_one_progression_of_positions(ring, band):
    rows, keys = ring
    found = gathered(rows, keys, band, join=False)
    for line in found.rows:
        for visit in line.visits:
            of_piece = [chunk for piece, chunk in keys if piece == visit.piece]
            wanted = [position(of_piece, i) for i in range(visit.tokens.start, visit.tokens.stop)]
            steps = range(len(wanted))
            assert wanted == [visit.start + found.step * i for i in steps]


@given(rings(), bands, st.integers(1, 9), st.sampled_from([None, True, False]))
def test_tiles_hold_every_token_once_and_weigh_what_they_may_see(ring, band, block, own_first):
    found = gathered(*ring, band, join=True)
    for lines in (found.rows, found.keys):
        cut = tiles(lines, block, own_first=own_first)
        tokens = Counter(
            (lines[t.line].piece, i) for t in cut for i in range(t.tokens.start, t.tokens.stop)
        )
        wanted = Counter(
            (line.piece, i) for line in lines for i in range(line.tokens.start, line.tokens.stop)
        )
        assert tokens == wanted
        assert sum(t.weight for t in cut) == sum(pairs(lines).values())
        assert all(len(t.tokens) <= block for t in cut)


def zigzag(rank: int, world: int, tokens: int) -> Gathered:
    shards = [PARTITIONS["zigzag"].spans(r, world, tokens) for r in range(world)]
    keys = [(0, c) for c in chunks(shards[rank])]
    others = [r for r in range(world) if r != rank]
    for piece, owner in enumerate(others, 1):
        keys += [(piece, c) for c in chunks(shards[owner], (piece - 1) * tokens)]
    return gathered(chunks(shards[rank]), keys, Band(low=0), join=True)


def test_a_zigzag_shard_makes_one_visit_an_owner():
    for line in zigzag(rank=1, world=4, tokens=16).rows:
        pieces = [visit.piece for visit in line.visits]
        assert len(pieces) == len(set(pieces))


def test_heaviest_tiles_come_first_and_own_ones_first_or_last_where_asked():
    found = zigzag(rank=0, world=2, tokens=16)
    weights = [tile.weight for tile in tiles(found.rows, 4)]
    assert weights == sorted(weights, reverse=True)
    pieces = [found.keys[t.line].piece for t in tiles(found.keys, 4, own_first=True)]
    assert pieces == [0] * 4 + [1] * 4
    pieces = [found.keys[t.line].piece for t in tiles(found.keys, 4, own_first=False)]
    assert pieces == [1] * 4 + [0] * 4


def test_spans_of_two_steps_are_no_launch():
    rows = chunks([Span(0, 4, 2)])
    with pytest.raises(ValueError, match="step"):
        gathered(rows, [(0, c) for c in chunks([Span(0, 4, 3)])], Band(), join=True)
