"""Partitions of packed documents: every token is one rank's, all have as many, and as much work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import documents
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.deal import DEALS, PerDocument
from ring_attn_bench.plan.partition import Dealt
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask
from scripts.measuring.batches import batches
from tests.unit.plan.plan_simulation import positions
from tests.unit.plan.test_documents import starts_of

CAUSAL = Band(low=0)
BY_NAME = {
    **DEALS,
    "each_contiguous": lambda starts, ranks, tokens, band: PerDocument(starts, ranks, tokens, 1),
}


@pytest.mark.parametrize("name", BY_NAME)
@settings(deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 40))
def test_each_token_is_one_ranks_and_all_have_as_many_in_rising_order(name, data, ranks, tokens):
    starts = data.draw(starts_of(ranks * tokens))
    band = Mask(data.draw(st.booleans()), data.draw(st.none() | st.integers(0, 9))).band
    dealt = BY_NAME[name](starts, ranks, tokens, band)
    held = [positions(dealt.spans(rank, ranks, tokens)) for rank in range(ranks)]
    assert {len(own) for own in held} == {tokens}
    assert sorted(np.concatenate(held)) == list(range(ranks * tokens))
    assert all((np.diff(own) > 0).all() for own in held)
    assert all(span.step == 1 for rank in range(ranks) for span in dealt.spans_of(rank))
    assert dealt.name == name


@pytest.mark.parametrize("name", DEALS)
def test_eight_ranks_have_as_much_work_of_published_lengths(name):
    """64 batches of 128k tokens, whose busiest rank has 4.7 times the mean by zigzag."""
    found = [
        documents(starts, name, 8).imbalance(CAUSAL) for starts in batches(8 * 16384, count=64)
    ]
    assert max(found) <= 1.03
    assert sum(found) / len(found) <= 1.005


@pytest.mark.parametrize("mask", [Mask(), Mask(True, 1024)], ids=str)
def test_work_is_counted_by_the_mask_that_is_named(mask):
    right = -1 if mask.window_left is None else mask.window_left
    for starts in batches(8 * 4096, count=4, seed=1):
        dealt = documents(starts, "balanced", 8, causal=mask.causal, window_size=(right, -1))
        assert dealt.imbalance(mask.band) <= 1.03


def test_documents_that_divide_are_dealt_as_zigzag_deals_a_sequence():
    dealt = PerDocument((0, 8, 24), 2, 12)
    assert [list(positions(dealt.spans_of(rank))) for rank in range(2)] == [
        [0, 1, 6, 7, 8, 9, 10, 11, 20, 21, 22, 23],
        [2, 3, 4, 5, 12, 13, 14, 15, 16, 17, 18, 19],
    ]


def test_documents_that_divide_are_dealt_to_ranks_in_turn():
    dealt = PerDocument((0, 4, 12), 2, 6, pieces=1)
    assert [list(positions(dealt.spans_of(rank))) for rank in range(2)] == [
        [0, 1, 4, 5, 6, 7], [2, 3, 8, 9, 10, 11],
    ]  # fmt: skip


def test_short_documents_and_what_is_left_of_long_ones_go_where_there_is_room():
    """Of 3, 9 and 4 tokens 8 and 4 divide by 4; 3 and 1 are left, of which each rank has 2."""
    dealt = PerDocument((0, 3, 12, 16), 2, 8)
    assert [list(positions(dealt.spans_of(rank))) for rank in range(2)] == [
        [0, 1, 3, 4, 9, 10, 12, 15], [2, 5, 6, 7, 8, 11, 13, 14],
    ]  # fmt: skip


def test_balanced_takes_as_few_pieces_as_will_do():
    equal = documents(range(0, 65, 16), "balanced", 4)
    assert [len(equal.spans(rank)) for rank in range(4)] == [1, 1, 1, 1]
    alone = documents([0, 4096], "balanced", 4)
    assert alone.imbalance(CAUSAL) <= 1.01
    assert max(len(alone.spans(rank)) for rank in range(4)) == 2


@pytest.mark.parametrize(
    "of_ranks",
    [
        ((Span(0, 2),), (Span(2, 3),)),  # uneven
        ((Span(0, 2),), (Span(1, 2),)),  # a token twice
        ((Span(0, 2),), (Span(3, 2),)),  # a token of nobody
        ((Span(2, 1), Span(0, 1)), (Span(1, 1), Span(3, 1))),  # falling
        ((Span(0, 2, 2),), (Span(1, 2, 2),)),  # stripes
        (),
    ],
)  # fmt: skip
def test_what_is_no_partition_is_refused(of_ranks):
    with pytest.raises(InvalidArgument, match="every rank must have as many tokens"):
        Dealt("odd", of_ranks)
