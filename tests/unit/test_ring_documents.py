"""A batch's documents as a value: what it says of tokens, padding and work, and what it costs."""

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import (
    InvalidArgument,
    document_position_ids,
    documents,
    shard,
    shard_documents,
)
from ring_attn_bench.plan.partition import PARTITIONS, Dealt
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask
from tests.unit.plan.plan_simulation import document_of, positions, sees


@st.composite
def batches(draw):
    world_size = draw(st.integers(1, 4))
    whole = world_size * 2 * draw(st.integers(1, 6))
    end = draw(st.integers(0, whole))
    inner = draw(st.lists(st.integers(0, end), max_size=6))
    partition = draw(st.sampled_from(sorted(PARTITIONS)))
    return documents([0, *sorted(inner), end], partition, world_size, whole)


@settings(deadline=None)
@given(batches())
def test_positions_restart_in_each_document_and_behind_the_last(batch):
    for rank in range(batch.world_size):
        at = positions(batch.spans(rank))
        number = document_of(at, batch.starts)
        first = np.array(batch.starts)[number]
        found = document_position_ids(batch, rank)
        assert found.dtype is torch.int64
        np.testing.assert_array_equal(found, at - first)
        assert batch.padding(rank) == (number < 0).sum()


@settings(deadline=None)
@given(batches(), st.booleans(), st.none() | st.integers(0, 9), st.none() | st.integers(0, 9))
def test_work_is_the_allowed_pairs_of_a_ranks_rows(batch, causal, left, right):
    mask = Mask(causal, left, right)
    every = np.arange(batch.world_size * batch.tokens)
    found = []
    for rank in range(batch.world_size):
        rows = positions(batch.spans(rank))
        ours, theirs = document_of(rows, batch.starts), document_of(every, batch.starts)
        together = (ours[:, None] == theirs) & (ours >= 0)[:, None]
        found.append(int((sees(mask, rows, every) & together).sum()))
        assert batch.pairs(rank, mask.band) == found[-1]
    wanted = max(found) * len(found) / sum(found) if any(found) else 1.0
    assert batch.imbalance(mask.band) == wanted


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 7),
    st.sampled_from(["contiguous", "zigzag", "striped", "balanced", "head_tail"]),
)  # fmt: skip
def test_uneven_documents_of_any_length_are_each_token_once_and_no_padding(length, ranks, name):
    batch = documents([0, length // 2, length], name, ranks, uneven=True)
    tokens = torch.arange(length)
    shards = [shard_documents(tokens, batch, rank) for rank in range(ranks)]
    assert sorted(torch.cat(shards).tolist()) == list(range(length))
    assert [len(x) for x in shards] == [batch.held(rank) for rank in range(ranks)]
    for rank, held in enumerate(shards):
        restarted = torch.where(held < length // 2, held, held - length // 2)
        assert document_position_ids(batch, rank).tolist() == restarted.tolist()


def test_a_rank_of_padded_documents_has_its_padding():
    batch = documents([0, 3, 7], "striped", 2, 8)
    x = torch.arange(8.0).view(1, 8).requires_grad_()
    assert shard_documents(x, batch, 1, dim=1).tolist() == [[1.0, 3.0, 5.0, 7.0]]
    shard_documents(x, batch, 0, dim=-1).sum().backward()
    assert x.grad.tolist() == [[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]
    with pytest.raises(InvalidArgument, match="packed sequence of 8 tokens"):
        shard_documents(x, batch, 0)
    with pytest.raises(InvalidArgument, match="leave out one of the two"):
        documents([0, 7], "striped", 2, 8, uneven=True)


def test_integers_and_tensors_of_them_make_one_value():
    starts = [0, 3, 9, 16]
    made = [
        documents(starts, "zigzag", 2), documents(tuple(starts), "zigzag", 2, 16),
        documents(torch.tensor(starts, dtype=torch.int32), PARTITIONS["zigzag"], 2),
        documents(torch.tensor(starts), "zigzag", torch.tensor(2)),
    ]  # fmt: skip
    assert len(set(made)) == 1
    others = documents(starts, "striped", 2), documents(starts, "zigzag", 4)
    assert len({made[0], *others, documents(starts, "zigzag", 2, 20)}) == 4
    assert made[0].longest == 7


@pytest.mark.parametrize("name", [*PARTITIONS, "balanced", "head_tail"])
def test_a_value_of_a_data_loaders_process_is_one_of_this(name):
    batch = documents([0, 5, 30], name, 2, uneven=True, seqused=[5, 20])
    hash(batch)
    assert "_hash" in vars(batch)
    sent = pickle.loads(pickle.dumps(batch))
    assert sent == batch
    assert "_hash" not in vars(sent)
    assert {sent} == {batch}


@pytest.mark.parametrize(
    ("starts", "ranks", "whole", "said"),
    [
        ([0, 7], 2, None, "are 4 and 8"),
        ([0, 9, 8], 2, None, "must rise from 0"),
        ([0, 9], 2, 8, "end at 9, but the ranks hold 8"),
        ([0, 8], 0, None, "must be at least 1"),
        ([0, 8], 2**40, 2**41, "at most 2147483647"),
        ([0, 8], 2, 2**40, "549755813888 to each of 2 ranks"),
        ([], 2, None, "must rise from 0"),
        ([0, 8.0], 2, None, "must be an integer"),
        ("08", 2, None, "or a sequence of integers"),
        (torch.zeros(1, 2, dtype=torch.int32), 2, None, r"shape \(1, 2\)"),
        (torch.zeros(2, device="meta", dtype=torch.int32), 2, None, "no numbers that can be read"),
    ],
)
def test_what_cannot_be_documents_is_refused_with_what_to_do(starts, ranks, whole, said):
    with pytest.raises(InvalidArgument, match=said):
        documents(starts, "zigzag", ranks, whole)


@pytest.mark.parametrize("used", [[3], [3, 6], [-1, 5], [3, 5, 0]])
def test_more_used_tokens_than_there_are_or_of_other_documents_are_refused(used):
    with pytest.raises(InvalidArgument, match="a number for each of the 2 documents"):
        documents([0, 3, 8], "zigzag", 2, seqused=used)


def test_what_is_not_used_is_no_work_and_no_document():
    batch = documents([0, 4, 4, 12], "contiguous", 2, seqused=torch.tensor([2, 0, 8]))
    assert [batch.pairs(rank, Mask(True).band) for rank in range(2)] == [3 + 3, 36 - 3]
    assert [[(x.start, x.stop) for x in batch.outside(rank)] for rank in range(2)] == [[(2, 4)], []]
    assert batch != documents([0, 4, 4, 12], "contiguous", 2)
    alone = documents([0, 8], "contiguous", 2, seqused=[0])
    assert [alone.pairs(rank, Mask().band) for rank in range(2)] == [0, 0]
    assert alone.apart is not None


@pytest.mark.parametrize("partition", ["zigzag", "balanced"])
def test_a_mask_that_is_none_is_refused_whoever_asks_for_it(partition):
    with pytest.raises(InvalidArgument, match="causal is 'no'"):
        documents([0, 8], partition, 2, causal="no")
    with pytest.raises(InvalidArgument, match="window_size"):
        documents([0, 8], partition, 2, window_size=3)


def test_more_ranks_than_pieces_can_be_sorted_for_are_refused():
    with pytest.raises(InvalidArgument, match="at most 1048576"):
        documents([0, 8], "balanced", 2**30, uneven=True)
    assert documents([0, 8], "balanced", 4096, uneven=True).held(4095) == 0


@pytest.mark.parametrize("value", [7, [0, 8], torch.tensor([0, 8]), None])
def test_what_is_no_value_of_documents_deals_nothing(value):
    for deal in (
        lambda: shard_documents(torch.zeros(8), value, 0),
        lambda: document_position_ids(value, 0),
    ):
        with pytest.raises(InvalidArgument, match=r"must be a value that documents\("):
            deal()


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", -1, object()])
def test_positions_on_a_device_that_is_not_there_are_refused(device):
    with pytest.raises(InvalidArgument, match="must be a device that is there"):
        document_position_ids(documents([0, 8], "zigzag", 2), 0, device)


def test_a_rank_that_there_is_not_has_no_positions():
    with pytest.raises(InvalidArgument, match=r"must be in \[0, 2\)"):
        document_position_ids(documents([0, 8], "zigzag", 2), 2)


def test_a_value_takes_the_host_a_few_steps_for_each_document():
    """Counted, not timed: 1,000 documents take 0.1 ms, of the 2 that they may."""

    def steps(count: int) -> int:
        starts = torch.arange(0, 16 * count + 1, 16, dtype=torch.int32)
        seen = []
        sys.setprofile(lambda *_: seen.append(1))
        try:
            hash(documents(starts, "zigzag", 8))
        finally:
            sys.setprofile(None)
        return len(seen)

    steps(8)
    assert steps(1008) - steps(8) < 4 * 1000


ODD = Dealt("odd", ((Span(0, 3), Span(7, 1)), (Span(3, 4),)))


def test_a_partition_as_data_deals_as_it_says():
    x = torch.arange(8)
    assert [shard(x, rank, 2, ODD, dim=0).tolist() for rank in range(2)] == [
        [0, 1, 2, 7], [3, 4, 5, 6],
    ]  # fmt: skip
    batch = documents([0, 5, 8], ODD, 2)
    assert document_position_ids(batch, 0).tolist() == [0, 1, 2, 2]
    assert batch == documents([0, 5, 8], Dealt("odd", ODD.of_ranks), 2)
    assert batch.tokens == 4


@pytest.mark.parametrize(("seqlen", "ranks"), [(12, 2), (8, 4)])
def test_a_partition_as_data_is_of_one_length_and_number_of_ranks(seqlen, ranks):
    with pytest.raises(InvalidArgument, match="deals a sequence of 8 tokens to 2 ranks"):
        shard(torch.zeros(seqlen), 0, ranks, ODD, dim=0)
