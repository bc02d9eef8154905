"""Keys by one all-gather, gradients by one reduce-scatter: attention like any ring's."""

from __future__ import annotations

from itertools import product
from unittest.mock import patch

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports import all_gather
from ring_attn_bench.ring.transports.p2p import Messages
from tests.distributed.dense import Dense
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import PREFIXES, Case, attend, faults, shards

GATHER = RingOptions("all_gather", schedule="gather")
SHAPES = (
    {"causal": True},
    {"causal": False},
    {"window": (3, 1), "causal": False},
    {"window": (2, 0)},
    {"batch": 2, "heads": 4, "dim": 16},
)


def counted(ring: Ring, case: Case, options: RingOptions = GATHER):
    """A rank's results, and the bytes that it sent in all-gathers and in reduce-scatters."""
    gathered, scattered = [], []

    def keys(output, own, **others):
        gathered.append(own.numel() * own.itemsize)
        return gather(output, own, **others)

    def gradients(total, shares, **others):
        scattered.append((shares.numel() * shares.itemsize, shares.dtype))
        return scatter(total, shares, **others)

    gather, scatter = all_gather.all_gather_single, all_gather._reduce_scatter
    with (
        RingContext(ring.group, options) as context,
        patch.multiple(all_gather, all_gather_single=keys, _reduce_scatter=gradients),
        patch.object(Messages, "batch", None),
    ):
        results = attend(ring, case, context)
        assert context.transport == options.transport
    return results, gathered, scattered


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("partition", PREFIXES)
def test_forward_and_backward_are_right(ranks, partition, shape):
    for world_size in (2, 3, 4):
        case = Case(world_size, partition, 8, **shape)
        answers = ranks.run(counted, case, world_size=world_size)
        assert faults(case, [results for results, *_ in answers]) == [], case
        shard = case.batch * case.tokens * case.key_heads * 2 * case.dim * 8
        for _, gathered, scattered in answers:
            # whole shards, whatever is seen of them; keys once more for the backward
            assert gathered == [shard, shard]
            assert scattered == [(world_size * shard, torch.float64)]


@pytest.mark.parametrize("gradients", ["float32", "input"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_travel_in_the_dtype_that_is_asked_for(ranks, dtype, gradients):
    options = RingOptions("all_gather", gradients=gradients, schedule="gather")
    for world_size, partition in product((2, 3), PREFIXES):
        case = Case(world_size, partition, 16, dim=32, dtype=dtype, causal=False)
        answers = ranks.run(counted, case, options, world_size=world_size)
        assert faults(case, [results for results, *_ in answers]) == []
        travels = dtype if gradients == "input" else torch.float32
        assert {kind for *_, scattered in answers for _, kind in scattered} == {travels}


def one_launch(ring: Ring, case: Case, transport: str):
    """A rank's results by a kernel that takes all ranks' keys in one launch."""
    backend, options = Dense(), RingOptions(transport, schedule="one_launch")
    mask = Mask.from_window_size(case.causal, case.window)
    layout = layout_of(case.partition, ring.world_size, case.tokens, mask, options)
    job = Job(plans(layout, abilities(backend, alibi=False))[ring.rank], backend, Score(0.3),
              torch.float64)  # fmt: skip
    assert [step.gathered is not None for step in job.plan.steps] == [False, True]
    q, k, v, dout = shards(case, ring.rank)
    with RingContext(ring.group, options) as context:
        out, lse = passes.forward(job, context, q, Keys(k, v))
        return [out, lse, *passes.backward(job, context, Rows(q, dout, out, lse), Keys(k, v))]


@pytest.mark.parametrize("shape", [*SHAPES[:2], SHAPES[3]], ids=str)
@pytest.mark.parametrize("partition", PREFIXES)
def test_one_launch_over_all_keys_is_that_over_messages_and_right(ranks, partition, shape):
    for world_size in (2, 3):
        case = Case(world_size, partition, 8, scale=0.3, **shape)
        gathered = ranks.run(one_launch, case, "all_gather", world_size=world_size)
        by_messages = ranks.run(one_launch, case, "p2p", world_size=world_size)
        names = ("out", "lse", "dq", "dk", "dv")
        results = [dict(zip(names, one, strict=True)) for one in gathered]
        assert faults(case, results) == []
        for mine, theirs in zip(gathered, by_messages, strict=True):
            for x, y in zip(mine, theirs, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def made(ring: Ring, options: RingOptions) -> str:
    with RingContext(ring.group, options) as context:
        return context.transport


def test_options_that_have_keys_come_in_steps_are_refused_on_all_ranks(ranks):
    for options in (
        RingOptions("all_gather"),
        RingOptions("all_gather", grouping=(1, 2)),
        RingOptions("all_gather", schedule="grouped"),
    ):
        for answer in ranks.outcomes(made, options):
            assert isinstance(answer, Raised)
            assert "Unsupported" in answer.kinds, answer.traceback
            assert "transport 'all_gather' cannot run this: it brings all" in answer.text
            assert "it takes schedule 'gather' or 'one_launch'" in answer.text
            assert "backend" not in answer.text


def test_two_ranks_need_no_schedule_and_auto_never_takes_it(ranks):
    assert ranks.run(made, RingOptions("all_gather"), world_size=2) == ["all_gather"] * 2
    assert ranks.run(made, RingOptions(schedule="gather")) == ["p2p"] * 4
