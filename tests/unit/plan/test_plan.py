"""Plans against brute force: every allowed pair once, keys in place, flags that tell the truth."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.plan.block import Abilities, Block, Form
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask
from tests.unit.plan.plan_simulation import (
    PLAIN,
    WINDOWS,
    accumulated,
    computed,
    positions,
    ring_of,
    sees,
)

EVERY = Abilities(frozenset(Form))


def every_allowed_pair_is_computed_once_and_nothing_else(ring):
    every = np.arange(ring.layout.world_size * ring.layout.tokens)
    times = np.zeros((len(every), len(every)), dtype=int)
    for _, launch, rows, keys in ring.launches():
        times[np.ix_(rows, keys)] += computed(launch.block)
    np.testing.assert_array_equal(times, ring.sees(every, every).astype(int))
    assert sum(p.area for p in ring.plans) == times.sum()


def blocks_tell_the_truth_about_their_pairs(ring):
    for _, launch, rows, keys in ring.launches():
        block, pairs = launch.block, ring.sees(rows, keys)
        np.testing.assert_array_equal(positions(block.rows), rows)
        np.testing.assert_array_equal(positions(block.keys), keys)
        np.testing.assert_array_equal(computed(block), pairs)
        assert block.area == pairs.sum()
        assert block.form in ring.able.forms
        assert block.form is Form.FULL or not pairs.all()
        assert block.form is Form.GENERAL or (pairs.any(axis=1).all() and pairs.any(axis=0).all())


def keys_have_landed_and_no_slot_is_overwritten_while_a_launch_needs_it(ring):
    for one in ring.plans:
        assert one.slots <= ring.layout.slots
        holder = {}
        for index, step in enumerate(one.steps):
            for later, posted in enumerate(one.steps):
                if later > 0 and posted.post_at == index:
                    slot = (later - 1) % one.slots
                    assert holder.get(slot, -1) < index, "still needed"
                    assert index == 0 or holder[slot] == index - 1, "could have been posted before"
                    holder[slot] = later
            assert index == 0 or holder[(index - 1) % one.slots] == index, "not there"
            ends = [0, *(f.landing.stop for f in step.fetches)]
            assert [f.landing.start for f in step.fetches] == ends[:-1]
            landed = one.tokens if index == 0 else ends[-1]
            assert all(0 <= launch.keys.start < launch.keys.stop <= landed
                       for launch in step.launches)  # fmt: skip


def sends_are_the_readers_fetches_in_their_order(ring):
    for index, steps in enumerate(zip(*(p.steps for p in ring.plans), strict=True)):
        assert len({step.post_at for step in steps}) == 1, f"step {index} is posted apart"
        for (reader, fetching), (owner, owing) in product(enumerate(steps), repeat=2):
            fetched = [f.tokens for f in fetching.fetches if f.owner == owner]
            assert fetched == [s.tokens for s in owing.sends if s.reader == reader]
            assert reader != owner or not fetched, "a rank fetches from itself"


def nothing_is_fetched_twice_or_at_an_end_that_no_row_sees(ring):
    for rank, one in enumerate(ring.plans):
        fetches = [f for step in one.steps for f in step.fetches]
        tokens = [ring.own[f.owner][f.tokens.slice] for f in fetches]
        assert len(set(np.concatenate([*tokens, []]))) == one.fetched_tokens
        for ends in (own[[0, -1]] for own in tokens):
            assert ring.sees(ring.own[rank], ends).any(axis=0).all()


def flags_add_up_to_every_pair_of_every_row_and_key(ring):
    every = np.arange(ring.layout.world_size * ring.layout.tokens)
    for rank, one in enumerate(ring.plans):
        launches, final = one.launches, np.full(one.tokens, np.nan)
        rows, firsts = [x.rows for x in launches], [x.first for x in launches]
        shares = [computed(x.block).sum(axis=1) for x in launches]
        for i, launch in enumerate(launches):
            so_far = accumulated(
                one.tokens, one.rows_start_at_zero, rows[: i + 1], shares[: i + 1], firsts[: i + 1]
            )
            overlaps = [max(r.start, launch.rows.start) < min(r.stop, launch.rows.stop)
                        for r in rows]  # fmt: skip
            assert launch.last == (not any(overlaps[i + 1 :]))
            assert launch.first == (not one.rows_start_at_zero and not any(overlaps[:i]))
            if launch.last:
                assert np.isnan(final[launch.rows.slice]).all(), "written twice"
                final[launch.rows.slice] = so_far[launch.rows.slice]
        storage = accumulated(one.tokens, one.rows_start_at_zero, rows, shares, firsts)
        for left in one.unfinished:
            assert np.isnan(final[left.slice]).all(), "finished already"
            final[left.slice] = storage[left.slice]
        np.testing.assert_array_equal(final, ring.sees(ring.own[rank], every).sum(axis=1))
        for index, step in enumerate(one.steps):
            landed = ring.landed(rank, index)
            keys = accumulated(
                len(landed),
                step.keys_start_at_zero,
                [x.keys for x in step.launches],
                [computed(x.block).sum(axis=0) for x in step.launches],
                [x.first_keys for x in step.launches],
            )
            seen = ring.sees(ring.own[rank], landed).sum(axis=0)
            np.testing.assert_array_equal(keys, seen)


CLAIMS = [
    every_allowed_pair_is_computed_once_and_nothing_else,
    blocks_tell_the_truth_about_their_pairs,
    keys_have_landed_and_no_slot_is_overwritten_while_a_launch_needs_it,
    sends_are_the_readers_fetches_in_their_order,
    nothing_is_fetched_twice_or_at_an_end_that_no_row_sees,
    flags_add_up_to_every_pair_of_every_row_and_key,
]


@st.composite
def rings(draw):
    partition = draw(st.sampled_from(tuple(PARTITIONS)))
    world_size = draw(st.integers(1, 6))
    tokens = draw(st.integers(1, 4)) * PARTITIONS[partition].chunks_per_rank
    side = st.none() | st.integers(0, 24)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    cuts = sorted(draw(st.sets(st.integers(1, world_size - 1)))) if world_size > 1 else []
    sizes = tuple(b - a for a, b in zip([0, *cuts], [*cuts, world_size - 1], strict=True))
    grouping = draw(st.sampled_from([None, tuple(size for size in sizes if size)]))
    forms = [WINDOWS, EVERY, *([] if mask.band.high is not None else [PLAIN])]
    slots = draw(st.integers(1, 7))
    return ring_of(
        partition, world_size, tokens, mask, draw(st.sampled_from(forms)), slots, grouping
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@settings(deadline=None, max_examples=300)
@given(ring=rings())
def test_in_a_ring_of_any_layout(claim, ring):
    claim(ring)


@st.composite
def blocks(draw):
    """Rows and keys in one or two progressions of one step, which no plan need ever make."""
    step, lengths = draw(st.integers(1, 3)), st.integers(1, 6)

    def spans(start):
        first = Span(start, draw(lengths), step)
        rest = Span(first.last + draw(lengths), draw(lengths), step)
        return draw(st.sampled_from([(first,), (first, rest)]))

    rows = spans(draw(st.integers(0, 4)))
    keys = draw(st.sampled_from([rows, spans(draw(st.integers(0, 4)))]))
    side = st.none() | st.integers(0, 9)
    return Mask(draw(st.booleans()), draw(side), draw(side)), rows, keys


@settings(deadline=None, max_examples=500)
@given(blocks())
def test_the_form_and_the_area_of_any_block_are_those_of_its_pairs(question):
    mask, rows, keys = question
    block, pairs = Block(rows, keys, mask.band), sees(mask, positions(rows), positions(keys))
    np.testing.assert_array_equal(computed(block), pairs)
    assert block.area == pairs.sum()


@pytest.mark.full
@pytest.mark.parametrize("world_size", range(1, 7))
@pytest.mark.parametrize("name", PARTITIONS)
def test_every_claim_holds_over_the_grid(name, world_size):
    others = world_size - 1
    masks = [Mask(causal, left, right) for causal in (False, True)
             for left in (None, 0, 1, 5, 11) for right in (None, 0, 3)]  # fmt: skip
    groupings = {None, (others,), (1, others - 1), (others - 1, 1)}
    groupings = [g for g in groupings if g is None or min(g) > 0]
    for chunks, mask, grouping, slots, forms in product(
        (1, 2, 3, 5), masks, groupings, (1, 2, 3, 9), (WINDOWS, EVERY)
    ):
        tokens = chunks * PARTITIONS[name].chunks_per_rank
        ring = ring_of(name, world_size, tokens, mask, forms, slots, grouping)
        for claim in CLAIMS if slots == 2 else CLAIMS[2:4]:
            claim(ring)
