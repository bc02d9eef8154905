"""Tables with room: another batch's documents where launches of a captured pass read theirs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.shared.worklist import worklist as of_hopper
from ring_attn_backends.triton.plain.gathered.worklist import worklist as of_plain

from ring_attn_bench import InvalidArgument, documents, refill_documents
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS, Dealt
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask
from tests.unit.backends.test_triton_worklist import read
from tests.unit.plan.plan_simulation import BY_POSITION, GATHERS, document_of, positions, sees

CPU = torch.device("cpu")
CAUSAL = Mask(causal=True)


def launch_of(value, rank, mask, able=GATHERS):
    """A rank's launch, of what the value now stands for."""
    now = value.now
    layout = Layout(
        now.partition, now.world_size, now.tokens, mask.band, 1,
        (now.world_size - 1,) if now.world_size > 1 else None, True, now.apart, room=now.room,
    )  # fmt: skip
    return plan(layout, rank, able).steps[1].gathered


def tables_of(where, block=4):
    """Of both families, forward and backward."""
    return [
        (family, side, made)
        for side, first in (("rows", None), ("keys", True))
        for family, made in (
            ("plain", of_plain(where, side, block, CPU, first)),
            ("hopper", of_hopper(where, side, block, 2 * block, CPU, first)),
        )
    ]


def tensors_of(made):
    return (made.table,) if hasattr(made, "table") else (made.tiles, made.entries)


def pairs(value, rank, work, side):
    """Which rows see which keys of the packed sequence, by the numbers of a table alone."""
    whole, ranks = value.world_size * value.tokens, value.world_size
    own = positions(value.now.partition.spans(rank, ranks, value.tokens))
    others = [(rank - offset) % ranks for offset in range(1, ranks)]
    spans = (positions(value.now.partition.spans(r, ranks, value.tokens)) for r in others)
    landed = np.concatenate([own[:0], *spans])
    found = np.zeros((whole, whole), dtype=int)
    for tile in read(work, of_keys=side == "keys"):
        for visit in tile.visits:
            keys, rows = (tile, visit) if side == "keys" else (visit, tile)
            i = np.arange(rows.tokens.start, rows.tokens.stop)
            j = np.arange(keys.tokens.start, keys.tokens.stop)
            distance = i[:, None] - j
            band = visit.band
            allowed = (band.low <= distance) & (distance <= band.high)
            area = landed if keys.piece else own
            found[np.ix_(own[i], area[j])] += allowed
    return found


def right(value, rank, mask):
    now = value.now
    every = np.arange(now.world_size * now.tokens)
    number = document_of(every, now.starts)
    own = positions(now.partition.spans(rank, now.world_size, now.tokens))
    together = (number[:, None] == number) & (number >= 0)[:, None]
    mine = np.zeros(len(every), dtype=bool)
    mine[own] = True
    return (sees(mask, every, every) & together & mine[:, None]).astype(int)


@st.composite
def batches(draw):
    """Values of documents of one length, the first with room for the others."""
    ranks, tokens = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 8))
    whole, name = ranks * tokens, draw(st.sampled_from(sorted(PARTITIONS)))
    end = draw(st.integers(0, whole))
    starts = [(0, *sorted(draw(st.lists(st.integers(0, end), max_size=9))), end) for _ in range(3)]
    first, *others = (documents(x, name, ranks, whole) for x in starts)
    room = documents(first.starts, name, ranks, whole, capacity=10)
    side = st.none() | st.integers(0, 12)
    return room, others, Mask(draw(st.booleans()), draw(side), draw(side))


@settings(deadline=None, max_examples=100)
@given(batches(), st.sampled_from([GATHERS, BY_POSITION]))
def test_another_batch_is_in_the_same_tensors_and_says_what_it_is(asked, able):
    value, others, mask = asked
    ranks = range(value.world_size)
    made = [tables_of(launch_of(value, rank, mask, able)) for rank in ranks]
    where = [[x.data_ptr() for *_, work in of for x in tensors_of(work)] for of in made]
    for batch in (value, *others):
        if batch is not value:
            refill_documents(value, batch)
        assert value.now.starts == batch.starts
        for rank in ranks:
            again = tables_of(launch_of(value, rank, mask, able))
            kept = [x.data_ptr() for *_, work in again for x in tensors_of(work)]
            assert kept == where[rank]
            for family, side, work in made[rank]:
                if family == "plain":
                    wanted = right(value, rank, mask)
                    np.testing.assert_array_equal(pairs(value, rank, work, side), wanted)


@settings(deadline=None, max_examples=50)
@given(batches())
def test_hoppers_tables_are_those_of_the_other_batch_and_zeros_behind(asked):
    value, (batch, _), mask = asked
    made = [tables_of(launch_of(value, rank, mask)) for rank in range(value.world_size)]
    refill_documents(value, batch)
    for rank, of_rank in enumerate(made):
        alone = replace(launch_of(value, rank, mask), place=None)
        for (family, _, work), (*_, own) in zip(of_rank, tables_of(alone), strict=True):
            if family == "hopper":
                for x, y in zip(tensors_of(work), tensors_of(own), strict=True):
                    assert torch.equal(x[: len(y)], y)
                    assert not x[len(y) :].any()


def test_all_keys_are_fetched_whatever_the_documents_are():
    value = documents([0, 8, 16], "contiguous", 2, capacity=4)
    where = launch_of(value, 1, CAUSAL)
    assert where.pieces == 1
    plain = documents([0, 8, 16], "contiguous", 2)
    assert launch_of(plain, 1, CAUSAL).pieces == 0


@pytest.mark.parametrize(
    ("starts", "options", "said"),
    [
        ([0, 3, 5, 7, 9, 16], {}, "there are 5 documents, and capacity is 4"),
        ([0, 8, 14], {"seqlen": 16}, "have 16 tokens in documents, and these have 14"),
        ([0, 32], {}, "have 8 tokens on each rank, and these have 16"),
        ([0, 16], {"seqused": [7]}, "seqused is given"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_and_nothing_is_written(starts, options, said):
    value = documents([0, 9, 16], "zigzag", 2, capacity=4)
    (_, _, work), *_ = tables_of(launch_of(value, 0, CAUSAL))
    before = work.table.clone()
    with pytest.raises(InvalidArgument, match=said):
        refill_documents(value, documents(starts, "zigzag", 2, **options))
    assert torch.equal(work.table, before)
    assert value.now is value


def test_what_has_no_room_is_refused_with_what_to_do():
    value = documents([0, 16], "zigzag", 2)
    with pytest.raises(InvalidArgument, match="capacity=N"):
        refill_documents(value, value)
    with pytest.raises(InvalidArgument, match="must be a value that documents"):
        refill_documents(value, [0, 16])
    with pytest.raises(InvalidArgument, match="there are 2 documents, and capacity is 1"):
        documents([0, 3, 16], "zigzag", 2, capacity=1)


def test_a_deal_of_more_pieces_than_there_is_room_for_is_refused_in_a_sentence():
    value = documents([0, 64], "contiguous", 2, capacity=1)
    before = [x.clone() for *_, work in tables_of(launch_of(value, 0, CAUSAL), 16)
              for x in tensors_of(work)]  # fmt: skip
    pieces = (tuple(Span(4 * at + 2 * rank, 2) for at in range(16)) for rank in range(2))
    many = documents([0, 64], Dealt("pieces", tuple(pieces)), 2)
    with pytest.raises(InvalidArgument, match="and there is room for"):
        refill_documents(value, many)
    after = [x for *_, work in tables_of(launch_of(value, 0, CAUSAL), 16)
             for x in tensors_of(work)]  # fmt: skip
    assert all(map(torch.equal, before, after))


def test_stripes_do_not_come_where_others_were_for_kernels_are_told_their_step():
    value = documents([0, 64], "contiguous", 2, capacity=1)
    with pytest.raises(InvalidArgument, match="from one token of a rank to the next"):
        refill_documents(value, documents([0, 64], "striped", 2))
    stripes = documents([0, *range(2, 9), 8], "striped", 2, capacity=9)
    assert launch_of(stripes, 0, CAUSAL).step == 2
    single = documents([0, 2, 4, 6, 8], "striped", 2, capacity=4)
    assert launch_of(single, 0, CAUSAL).step == 2


def test_a_capacity_beyond_all_tokens_takes_no_more_memory_than_all_tokens():
    sizes = [
        [x.shape for *_, work in tables_of(launch_of(value, 0, CAUSAL)) for x in tensors_of(work)]
        for capacity in (16, 2**40)
        for value in [documents([0, 16], "zigzag", 2, capacity=capacity)]
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "8"])
def test_what_is_no_capacity_is_refused(capacity):
    with pytest.raises(InvalidArgument, match="capacity"):
        documents([0, 16], "zigzag", 2, capacity=capacity)
