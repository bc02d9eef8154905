"""Packed calls of a ring's documents against brute force: each allowed pair once, in few calls."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.packs import COPIES
from ring_attn_bench.plan.partition import PARTITIONS, Dealt
from ring_attn_bench.plan.plans import plan, plans
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask
from tests.unit.plan.plan_simulation import document_of, positions, sees
from tests.unit.plan.test_cross import held, layouts, right
from tests.unit.plan.test_documents import starts_of

FORMS = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
PACKS = Abilities(FORMS, packs=True)
BY_INDEX = Abilities(FORMS, packs=True, index_alibi=True)
CAUSAL = Mask(causal=True)


def rule_of(name, starts, ranks, tokens, mask):
    if name in PARTITIONS:
        return PARTITIONS[name]
    return DEALS[name](starts, ranks, tokens, mask.band)


def stored(ranges, backwards):
    at = [token for tokens in ranges for token in range(tokens.start, tokens.stop)]
    return at[::-1] if backwards else at


def computed(pack, segment):
    """The pairs of a segment's rows and keys, by what its numbers say to a packed kernel."""
    rows, keys = segment.row_count, segment.key_count
    seen = sees(pack.mask, np.arange(rows) + keys - rows, np.arange(keys))
    return seen[: rows - segment.beyond]


def segments_of(step):
    """Each segment of a step's calls: its stored rows and keys, and its pairs."""
    for pack in step.packs:
        rows = [stored(x.rows, x.backwards) for x in pack.segments]
        every = [row for segment in rows for row in segment]
        assert len(set(every)) == len(every), "what a call gives is merged at once"
        for segment, mine in zip(pack.segments, rows, strict=True):
            pairs = computed(pack, segment)
            assert pairs.sum() == segment.area
            yield mine, stored(segment.keys, segment.backwards), pairs


def landed(layout, rank, step, index):
    """The positions of a step's keys, as its calls count them."""
    own = held_keys(layout, rank)
    if index == 0:
        return own
    parts = [held_keys(layout, x.owner)[x.tokens.slice] for x in step.fetches]
    return np.concatenate([own if step.with_own else [], *parts]).astype(int)


def held_keys(layout, rank):
    return positions(layout.partition.spans(rank, layout.world_size, layout.tokens))


def covered(layout, able, rows_of):
    """How often each pair of the whole sequence is computed; rows_of: the positions of a rank's."""
    whole = layout.world_size * layout.row_tokens, layout.world_size * layout.tokens
    times, area = np.zeros(whole, dtype=int), 0
    for rank in range(layout.world_size):
        one = plan(layout, rank, able)
        assert not one.launches
        area += one.area
        for index, step in enumerate(one.steps):
            keys = landed(layout, rank, step, index)
            for rows, columns, pairs in segments_of(step):
                np.add.at(times, np.ix_(rows_of(rank)[rows], keys[columns]), pairs)
    assert area == times.sum()
    return times


@st.composite
def layouts_of_self(draw, one_launch):
    name = draw(st.sampled_from((*PARTITIONS, *DEALS)))
    ranks, tokens = draw(st.integers(1, 5)), 2 * draw(st.integers(1, 5))
    side = st.none() | st.integers(0, 24)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    documents = draw(starts_of(ranks * tokens))
    void = frozenset(draw(st.sets(st.integers(0, len(documents) - 2), max_size=2)))
    rule = rule_of(name, documents, ranks, tokens, mask)
    together = ranks > 1 and (one_launch or draw(st.booleans()))
    where = rule, ranks, tokens, mask.band, draw(st.integers(1, 3))
    grouping = (ranks - 1,) if together else None
    return mask, Layout(*where, grouping, one_launch, documents, None, void)


def right_of_self(mask, layout):
    every = np.arange(layout.world_size * layout.tokens)
    number = document_of(every, layout.documents, layout.void)
    together = (number[:, None] == number) & (number >= 0)[:, None]
    return (sees(mask, every, every) & together).astype(int)


@settings(deadline=None, max_examples=300)
@given(layouts_of_self(one_launch=False))
def test_by_steps_every_allowed_pair_is_computed_once_and_nothing_else(asked):
    mask, layout = asked
    times = covered(layout, PACKS, lambda rank: held_keys(layout, rank))
    np.testing.assert_array_equal(times, right_of_self(mask, layout))


@settings(deadline=None, max_examples=300)
@given(layouts_of_self(one_launch=True), st.sampled_from([PACKS, BY_INDEX]))
def test_in_one_call_every_allowed_pair_is_computed_once_and_nothing_else(asked, able):
    mask, layout = asked
    if isinstance(plans(layout, able), str):
        assert layout.partition.name == "striped"
        return
    times = covered(layout, able, lambda rank: held_keys(layout, rank))
    np.testing.assert_array_equal(times, right_of_self(mask, layout))


@settings(deadline=None, max_examples=200)
@given(st.booleans().flatmap(layouts))
def test_queries_of_their_own_lengths_are_packed_too(asked):
    mask, layout, _ = asked
    if isinstance(plans(layout, PACKS), str):
        assert layout.one_launch
        assert layout.partition.name == "striped"
        return
    queries = layout.queries.starts
    whole = layout.world_size * layout.row_tokens, layout.world_size * layout.tokens
    wanted = right(mask, queries, layout.documents, *whole)
    times = covered(layout, PACKS, lambda rank: held(layout, rank)[0])
    np.testing.assert_array_equal(times, wanted)


MASKS = {
    "causal": CAUSAL,
    "full": Mask(),
    "window": Mask(True, 100),
    "window on both sides": Mask(False, 100, 30),
    "window on the left": Mask(False, 100),
}


def most_calls(name, mask, schedule, count):
    """The most packed calls that a rank of 4 has for a step, of so many documents."""
    ranks, tokens, dice = 4, 512, random.Random(count)
    inner = sorted(dice.sample(range(1, ranks * tokens), count - 1))
    starts = (0, *inner, ranks * tokens)
    rule = rule_of(name, starts, ranks, tokens, mask)
    grouping = None if schedule == "steps" else (ranks - 1,)
    layout = Layout(rule, ranks, tokens, mask.band, 2, grouping, schedule == "one_launch", starts)
    return max(len(step.packs) for one in plans(layout, PACKS) for step in one.steps)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", [*PARTITIONS, *DEALS])
def test_how_many_calls_there_are_does_not_follow_from_how_many_documents(name, mask):
    for count in (1, 20, 200):
        assert most_calls(name, mask, "steps", count) <= 6
        if name != "striped":
            assert most_calls(name, mask, "gather", count) <= 6
            assert most_calls(name, mask, "one_launch", count) == 1


def test_many_pieces_of_one_document_copy_its_keys_a_few_times_at_most():
    """By `balanced` with 32 pieces a rank, each with all keys before it: 16 times all of them."""
    ranks, tokens = 2, 64
    spans = [
        tuple(Span(2 * at * ranks + 2 * rank, 2) for at in range(tokens // 2))
        for rank in range(ranks)
    ]
    rule = Dealt("pieces", tuple(spans))
    layout = Layout(rule, ranks, tokens, CAUSAL.band, 1, (1,), True, (0, ranks * tokens))
    for one in plans(layout, PACKS):
        (packs,) = [step.packs for step in one.steps if step.packs]
        area = tokens + one.fetched_tokens
        assert all(pack.key_count <= COPIES * area for pack in packs)
        assert len(packs) <= 6


def test_stripes_are_no_rows_of_one_call_and_the_sentence_says_what_to_do():
    layout = Layout(PARTITIONS["striped"], 2, 8, CAUSAL.band, 1, (1,), True, (0, 16))
    assert "schedule 'steps'" in plans(layout, PACKS)


def test_stripes_are_refused_on_all_ranks_or_on_none():
    """Of a document of three tokens rank 1 has one, and sees one: chunks alone would not tell."""
    layout = Layout(PARTITIONS["striped"], 2, 4, CAUSAL.band, 1, (1,), True, (0, 3, 3, 8))
    found = [plan(layout, rank, PACKS) for rank in range(2)]
    assert found[0] == found[1]
    assert isinstance(found[0], str)
