"""Bytes over a link: by hand, and what all ranks send is what all receive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.plan.traffic import Traffic, traffic

EVERY = Abilities(frozenset(Form), gathers=True)
SHAPE = ShardShape(batch=2, heads_q=8, heads_kv=4, head_dim=64, head_dim_v=32, travels=4)
TOKEN = 2 * 4 * (64 + 32)
"""Numbers of a token's keys and values."""


def of_ranks(partition, world_size, tokens, mask, grouping=None, **directions):
    whole = grouping == "one_launch"
    layout = Layout(
        PARTITIONS[partition], world_size, tokens, mask.band, 2, None if whole else grouping, whole
    )
    return [traffic(plan, SHAPE, **directions) for plan in plans(layout, EVERY)]


@pytest.mark.parametrize(
    ("forward", "backward", "keeps", "bytes_a_number"),
    [
        (True, False, False, 2),
        (False, True, False, 2 + 4),
        (True, True, False, 2 + 2 + 4),
        (True, True, True, 2 + 4),
        (False, True, True, 4),
    ],
)
def test_without_a_mask_every_rank_gets_all_others_keys(forward, backward, keeps, bytes_a_number):
    found = of_ranks("contiguous", 4, 16, Mask(), forward=forward, backward=backward, keeps=keeps)

    each = 3 * 16 * TOKEN * bytes_a_number
    assert found == [Traffic(each, each)] * 4


def test_a_causal_contiguous_ring_sends_one_way():
    found = of_ranks("contiguous", 4, 16, Mask(causal=True), forward=True, backward=False)

    shard = 16 * TOKEN * 2
    assert [x.received for x in found] == [0, shard, 2 * shard, 3 * shard]
    assert [x.sent for x in found] == [3 * shard, 2 * shard, shard, 0]
    assert max(x.busier for x in found) == 3 * shard


@given(
    partition=st.sampled_from(sorted(PARTITIONS)),
    world_size=st.integers(1, 6),
    chunks=st.integers(1, 4),
    causal=st.booleans(),
    before=st.sampled_from([-1, 0, 3, 9]),
    one_launch=st.booleans(),
    forward=st.booleans(),
    backward=st.booleans(),
    keeps=st.booleans(),
)
def test_what_ranks_send_is_what_ranks_receive(
    partition, world_size, chunks, causal, before, one_launch, forward, backward, keeps
):
    mask = Mask.from_window_size(causal, (before, -1))
    grouping = "one_launch" if one_launch else None
    found = of_ranks(
        partition, world_size, 2 * chunks, mask, grouping, forward=forward, backward=backward,
        keeps=keeps,
    )  # fmt: skip

    assert sum(x.received for x in found) == sum(x.sent for x in found)
    if world_size == 1 or not (forward or backward):
        assert found == [Traffic(0, 0)] * world_size
