"""Plans of one launch against brute force: every allowed pair once, pieces in turn, and figures."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.plan.fetches import MOST
from ring_attn_bench.plan.gathered import OWN
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import layout_of
from tests.unit.plan.plan_simulation import BY_POSITION, GATHERS, PLAIN, ring_of
from tests.unit.plan.test_plan import (
    keys_have_landed_and_no_slot_is_overwritten_while_a_launch_needs_it,
    nothing_is_fetched_twice_or_at_an_end_that_no_row_sees,
    sends_are_the_readers_fetches_in_their_order,
)

CAUSAL = Mask(causal=True)


def every_allowed_pair_is_visited_once_by_rows_and_by_keys(ring):
    every = ring.layout.world_size * ring.layout.tokens
    right = ring.sees(np.arange(every), np.arange(every)).astype(int)
    for side in ("rows", "keys"):
        times = np.zeros((every, every), dtype=int)
        for rank in range(ring.layout.world_size):
            where, own, area_of = ring.gathered(rank)
            for line in getattr(where, side):
                for visit in line.visits:
                    of_rows, of_keys = (visit, line) if line.of_keys else (line, visit)
                    rows = np.arange(of_rows.tokens.start, of_rows.tokens.stop)
                    keys = np.arange(of_keys.tokens.start, of_keys.tokens.stop)
                    low, high = visit.band.low, visit.band.high
                    distance = rows[:, None] - keys
                    allowed = np.ones_like(distance)
                    allowed &= low is None or distance >= low
                    allowed &= high is None or distance <= high
                    times[np.ix_(own[rows], area_of(of_keys.piece)[keys])] += allowed
        np.testing.assert_array_equal(times, right)
    assert sum(p.area for p in ring.plans) == right.sum()


def lines_are_all_tokens_and_say_where_they_are(ring):
    for rank in range(ring.layout.world_size):
        where, own, area_of = ring.gathered(rank)
        for lines, wanted in ((where.rows, len(own)), (where.keys, len(own) + len(area_of(1)))):
            assert sum(len(line.tokens) for line in lines) == wanted
            for line in lines:
                at = area_of(line.piece)[line.tokens.slice]
                np.testing.assert_array_equal(at, line.start + where.step * np.arange(len(at)))


def pieces_are_the_fetches_and_come_from_all_owners_in_turn(ring):
    """At no time do two ranks read from one, and a piece's word is its fetch's number."""
    world_size = ring.layout.world_size
    for rank, one in enumerate(ring.plans):
        _, step = one.steps
        assert not one.launches
        offsets = [(rank - fetch.owner) % world_size for fetch in step.fetches]
        assert offsets == sorted(offsets)
        most = 2 if ring.layout.documents is None else MOST
        assert all(offsets.count(offset) <= most for offset in offsets)
        assert step.gathered.pieces == len(step.fetches)
        for line in step.gathered.keys:
            if line.piece != OWN:
                landing = step.fetches[line.piece - 1].landing
                assert landing.start <= line.tokens.start < line.tokens.stop <= landing.stop
        for line in step.gathered.rows:
            assert [v.piece for v in line.visits] == sorted(v.piece for v in line.visits)


CLAIMS = [
    every_allowed_pair_is_visited_once_by_rows_and_by_keys,
    lines_are_all_tokens_and_say_where_they_are,
    pieces_are_the_fetches_and_come_from_all_owners_in_turn,
    keys_have_landed_and_no_slot_is_overwritten_while_a_launch_needs_it,
    sends_are_the_readers_fetches_in_their_order,
    nothing_is_fetched_twice_or_at_an_end_that_no_row_sees,
]


@st.composite
def rings(draw):
    partition = draw(st.sampled_from(tuple(PARTITIONS)))
    tokens = draw(st.integers(1, 4)) * PARTITIONS[partition].chunks_per_rank
    side = st.none() | st.integers(0, 24)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    able = draw(st.sampled_from([GATHERS, BY_POSITION]))
    return ring_of(partition, draw(st.integers(2, 6)), tokens, mask, able, one_launch=True)


@settings(deadline=None, max_examples=300)
@given(ring=rings())
def test_in_a_ring_of_any_layout(ring):
    for claim in CLAIMS:
        claim(ring)


@pytest.mark.full
@pytest.mark.parametrize("world_size", range(2, 7))
@pytest.mark.parametrize("name", PARTITIONS)
def test_every_claim_holds_over_the_grid(name, world_size):
    masks = [Mask(causal, left, right) for causal in (False, True)
             for left in (None, 0, 1, 5, 11) for right in (None, 0, 3)]  # fmt: skip
    for chunks, mask, able in product((1, 2, 3, 5), masks, (GATHERS, BY_POSITION)):
        tokens = chunks * PARTITIONS[name].chunks_per_rank
        ring = ring_of(name, world_size, tokens, mask, able, one_launch=True)
        for claim in CLAIMS:
            claim(ring)


# figures


@pytest.mark.parametrize("world_size", [2, 3, 4, 8, 64])
def test_causal_zigzag_is_the_same_work_on_every_rank(world_size):
    ring = ring_of("zigzag", world_size, 10, CAUSAL, GATHERS, one_launch=True)
    assert len({one.area for one in ring.plans}) == 1


@pytest.mark.parametrize(
    ("name", "mask", "fetched"),
    [
        ("zigzag", CAUSAL, [36, 30, 24, 18]),
        ("contiguous", CAUSAL, [0, 12, 24, 36]),
        ("striped", CAUSAL, [33, 34, 35, 36]),
        ("contiguous", Mask(True, 5), [0, 5, 5, 5]),
        ("zigzag", Mask(), [36, 36, 36, 36]),
    ],
)
def test_ranks_of_four_fetch_what_other_schedules_do(name, mask, fetched):
    ring = ring_of(name, 4, 12, mask, GATHERS, one_launch=True)
    assert [one.fetched_tokens for one in ring.plans] == fetched
    assert {one.landing_tokens for one in ring.plans} == set(fetched)


def test_owners_are_read_in_turn_the_rank_before_first():
    ring = ring_of("zigzag", 4, 12, Mask(), GATHERS, one_launch=True)
    owners = [[fetch.owner for fetch in one.steps[1].fetches] for one in ring.plans]
    assert owners == [[3, 2, 1], [0, 3, 2], [1, 0, 3], [2, 1, 0]]


@pytest.mark.parametrize(("able", "visits"), [(GATHERS, [1, 4]), (BY_POSITION, [1, 8])])
def test_a_causal_zigzag_rank_visits_each_owner_once_unless_positions_matter(able, visits):
    ring = ring_of("zigzag", 4, 12, CAUSAL, able, one_launch=True)
    early, late = ring.gathered(0)[0].rows
    assert [len(line.visits) for line in (early, late)] == visits


def test_a_kernel_that_does_not_gather_is_refused_on_all_ranks_and_told_what_needs_none():
    layout = Layout(PARTITIONS["zigzag"], 4, 12, CAUSAL.band, 2, (3,), one_launch=True)
    said = "it has no launch over gathered keys (schedule 'gather' needs none)"
    assert plans(layout, PLAIN) == said


def test_a_ring_of_one_is_what_it_is_by_steps():
    for able in (PLAIN, GATHERS):
        one = ring_of("zigzag", 1, 12, CAUSAL, able, one_launch=True)
        assert one.plans == ring_of("zigzag", 1, 12, CAUSAL, able).plans


def test_the_schedule_is_one_step_of_all_others_in_any_number_of_slots():
    for slots in (1, 2, 7, "auto"):
        options = RingOptions(schedule="one_launch", slots=slots)
        found = plans(layout_of("striped", 5, 8, Mask(), options), GATHERS)
        assert {(one.slots, len(one.steps)) for one in found} == {(1, 2)}
