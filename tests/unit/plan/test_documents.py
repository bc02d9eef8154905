"""Plans of packed documents against brute force: pairs of one document alone, in few launches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import OUTSIDE, cut
from ring_attn_bench.plan.fetches import MOST, fetches_of
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.positions import Band, Range, Span
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.plan.touched import first_flags, last_flags
from tests.unit.plan import test_plan as by_steps
from tests.unit.plan import test_plan_one_launch as in_one
from tests.unit.plan.plan_simulation import (
    BY_POSITION,
    EVERY,
    GATHERS,
    PLAIN,
    WINDOWS,
    document_of,
    ring_of,
)

CAUSAL = Mask(causal=True)


def only_what_rows_see_is_fetched(ring):
    """Where no window makes a hull of it, and few enough messages bring it."""
    for rank in range(ring.layout.world_size):
        for offset in range(1, ring.layout.world_size):
            owner = (rank - offset) % ring.layout.world_size
            found = fetches_of(ring.layout, rank, (offset,))
            tokens = np.concatenate([ring.own[owner][x.tokens.slice] for x in found] or [[]])
            seen = ring.own[owner][ring.sees(ring.own[rank], ring.own[owner]).any(axis=0)]
            assert len(found) <= MOST
            assert set(seen) <= set(tokens)
            if not ring.mask.has_window and len(found) < MOST:
                np.testing.assert_array_equal(tokens, seen)


@st.composite
def starts_of(draw, tokens):
    """Where documents begin in so many tokens, empty ones too, and padding behind the last."""
    end = draw(st.integers(0, tokens))
    inner = draw(st.lists(st.integers(0, end), max_size=7))
    return (0, *sorted(inner), draw(st.sampled_from([end, tokens])))


@st.composite
def rings(draw, one_launch):
    partition = draw(st.sampled_from((*PARTITIONS, *DEALS)))
    world_size = draw(st.integers(1, 5))
    tokens = 2 * draw(st.integers(1, 4))
    side = st.none() | st.integers(0, 24)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    documents = draw(starts_of(world_size * tokens))
    void = frozenset(draw(st.sets(st.integers(0, len(documents) - 2), max_size=2)))
    if partition in DEALS:
        partition = DEALS[partition](documents, world_size, tokens, mask.band)
    if one_launch:
        able = draw(st.sampled_from([GATHERS, BY_POSITION]))
        return ring_of(
            partition,
            world_size,
            tokens,
            mask,
            able,
            one_launch=True,
            documents=documents,
            void=void,
        )
    cuts = sorted(draw(st.sets(st.integers(1, world_size - 1)))) if world_size > 1 else []
    sizes = tuple(b - a for a, b in zip([0, *cuts], [*cuts, world_size - 1], strict=True))
    grouping = draw(st.sampled_from([None, tuple(size for size in sizes if size)]))
    forms = [WINDOWS, EVERY, *([] if mask.band.high is not None else [PLAIN])]
    able, slots = draw(st.sampled_from(forms)), draw(st.integers(1, 6))
    return ring_of(partition, world_size, tokens, mask, able, slots, grouping, documents=documents)


@settings(deadline=None, max_examples=200)
@given(ring=rings(one_launch=False))
def test_in_a_ring_of_documents_every_claim_of_plans_holds(ring):
    for claim in (*by_steps.CLAIMS, only_what_rows_see_is_fetched):
        claim(ring)


@settings(deadline=None, max_examples=200)
@given(ring=rings(one_launch=True))
def test_in_one_launch_of_documents_every_claim_holds(ring):
    for claim in (*in_one.CLAIMS, only_what_rows_see_is_fetched):
        claim(ring)


@pytest.mark.parametrize("name", PARTITIONS)
def test_any_number_of_documents_is_one_launch(name):
    for count in (1, 3, 40):
        starts = tuple(round(i * 48 / count) for i in range(count + 1))
        ring = ring_of(name, 4, 12, CAUSAL, GATHERS, one_launch=True, documents=starts)
        for one in ring.plans:
            assert not one.launches
            assert one.gathers


def test_a_ring_of_one_takes_documents_in_one_launch_too():
    ring = ring_of("zigzag", 1, 12, CAUSAL, GATHERS, one_launch=True, documents=(0, 3, 12))
    (one,) = ring.plans
    assert (one.gathers, one.fetched_tokens, one.area) == (True, 0, 6 + 45)


@pytest.mark.parametrize("name", ["contiguous", "zigzag"])
def test_of_chunks_of_a_sequence_only_documents_across_their_ends_are_fetched(name):
    """Eight documents of 8 tokens, dealt to ranks of 16: no document crosses a chunk's end."""
    ring = ring_of(name, 4, 16, CAUSAL, PLAIN, documents=tuple(range(0, 65, 8)))
    assert [one.fetched_tokens for one in ring.plans] == [0, 0, 0, 0]
    assert [len(one.launches) for one in ring.plans] == [2, 2, 2, 2]


def test_a_kernel_without_documents_has_a_launch_for_each_and_one_for_what_crosses():
    """Contiguous: what two ranks share is one document at most, so that remote steps have one."""
    ring = ring_of("contiguous", 2, 16, CAUSAL, PLAIN, documents=(0, 4, 8, 20, 26, 32))
    assert [[len(step.launches) for step in one.steps] for one in ring.plans] == [[3, 0], [3, 1]]


def test_padding_is_in_no_launch_and_in_no_visit():
    by_launches = ring_of("contiguous", 2, 8, Mask(), PLAIN, documents=(0, 5, 11))
    assert by_launches.plans[1].rows_start_at_zero
    assert max(launch.rows.stop for launch in by_launches.plans[1].launches) == 3
    ring = ring_of("contiguous", 2, 8, Mask(), GATHERS, one_launch=True, documents=(0, 5, 11))
    where, own, _ = ring.gathered(1)
    assert [len(line.visits) for line in where.rows] == [2, 0]
    np.testing.assert_array_equal(own[where.rows[1].tokens.slice], range(11, 16))


@given(st.integers(1, 4), st.integers(0, 9), st.integers(0, 30), st.data())
def test_parts_of_a_span_are_of_one_document_each_and_are_all_of_it(step, start, count, data):
    span = Span(start, count, step)
    starts = data.draw(starts_of(start + count * step))
    parts = list(cut(span, starts))
    assert [at for part, _ in parts for at in part.positions()] == list(span.positions())
    for part, document in parts:
        assert set(document_of(np.array(part.positions()), starts)) == {document}
    assert all(document >= OUTSIDE for _, document in parts)


@pytest.mark.parametrize("starts", [(0,), (1, 4), (0, 5, 4), (-1, 4)])
def test_starts_that_do_not_rise_from_0_are_refused(starts):
    with pytest.raises(InvalidArgument, match="must rise from 0"):
        Layout(PARTITIONS["zigzag"], 2, 8, Band(), documents=starts)


def test_starts_beyond_the_tokens_are_refused_with_both_numbers():
    with pytest.raises(InvalidArgument, match="end at 17, but the ranks hold 16 tokens together"):
        Layout(PARTITIONS["zigzag"], 2, 8, Band(), documents=(0, 17))


def test_making_a_plan_of_many_documents_looks_at_each_a_few_times(monkeypatch):
    """Not at every pair of them: 1,000 documents of a batch would be a million bands."""
    looks = []
    between = Band.between
    monkeypatch.setattr(Band, "between", lambda *args: looks.append(1) or between(*args))
    for count in (200, 400):
        looks.clear()
        starts = tuple(range(0, 16 * count + 1, 16))
        layout = Layout(PARTITIONS["zigzag"], 4, 4 * count, Band(low=0), documents=starts)
        assert not isinstance(plan(layout, 1, PLAIN), str)
        assert len(looks) < 10 * count


ranges = st.builds(lambda start, size: Range(start, start + size), st.integers(0, 12),
                   st.integers(1, 5))  # fmt: skip


@given(st.lists(ranges, max_size=8), st.integers(0, 17))
def test_flags_of_ranges_are_those_of_their_tokens(wanted, length):
    sets = [set(range(x.start, x.stop)) for x in wanted]
    before = [set().union(*sets[:i]) for i in range(len(sets))]
    after = [set().union(*sets[i + 1 :]) for i in range(len(sets))]
    assert last_flags(wanted) == [not (x & later) for x, later in zip(sets, after, strict=True)]
    parts = any(0 < len(x - seen) < len(x) for x, seen in zip(sets, before, strict=True))
    zero = parts or set().union(*sets) != set(range(length))
    flags = [not zero and bool(x - seen) for x, seen in zip(sets, before, strict=True)]
    if set().union(*sets) <= set(range(length)):  # as all of its callers' are
        assert first_flags(wanted, length) == (flags, zero)
