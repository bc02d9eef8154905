"""Two processes that play ranks of a larger ring send what ranks of that ring do, step by step."""

from __future__ import annotations

from itertools import product
from unittest.mock import patch

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.contract.backend import Backend, abilities
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.registry import EVERYWHERE, load
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.transports.p2p import Messages
from ring_attn_bench.ring.transports.played import played_part, played_plan
from tests.distributed.dense import Dense
from tests.distributed.pool import Ring

TOKENS = 8
OPTIONS = RingOptions(transport=EVERYWHERE)


def layout(partition: str, world_size: int, *, causal: bool, grouping=None) -> Layout:
    """grouping: `one_launch` is all in one launch."""
    mask, whole = Mask.from_window_size(causal, (-1, -1)), grouping == "one_launch"
    sizes = (world_size - 1,) if whole else grouping
    return Layout(PARTITIONS[partition], world_size, TOKENS, mask.band, 2, sizes, whole)


def kernel(where: Layout) -> Backend:
    return Dense() if where.one_launch else load("reference")


def messages(job: Job, transport) -> tuple[list[list[tuple[str, int]]], list[torch.Tensor]]:
    """Each batch of a forward and a backward pass, by direction and bytes; and the results."""
    batches = []

    def counted(self, to, sent, by, received):
        sizes = [("isend", x.nbytes) for x in sent] + [("irecv", x.nbytes) for x in received]
        batches.append(sizes)
        return start(self, to, sent, by, received)

    start = Messages.batch
    q, k, v, dout = (torch.randn(1, TOKENS, h, 8) for h in (4, 2, 2, 4))
    with patch.object(Messages, "batch", counted):
        out, lse = passes.forward(job, transport, q, Keys(k, v))
        sums = passes.backward(job, transport, Rows(q, dout, out, lse), Keys(k, v))
    return batches, [out, lse, *sums]


def in_its_ring(ring: Ring, where: Layout):
    backend = kernel(where)
    found = plans(where, abilities(backend, alibi=False))
    job = Job(found[ring.rank], backend, Score(0.3), torch.float32)
    return messages(job, RingContext(ring.group, OPTIONS))[0]


def played(ring: Ring, where: Layout, playing: tuple[int, ...]):
    backend = kernel(where)
    found = plans(where, abilities(backend, alibi=False))
    own, partner = (found[playing[at]] for at in (ring.rank, ring.rank ^ 1))
    job = Job(played_plan(own, partner), backend, Score(0.3), torch.float32)
    with RingContext(ring.group, OPTIONS) as context:
        transport = context.played(played_part(ring.rank, playing, where.world_size))
        batches, results = messages(job, transport)
    return batches, all(bool(x.isfinite().all()) for x in results)


@pytest.mark.parametrize("grouping", [None, (3,), (1, 2), "one_launch"], ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_ranks_from_both_ends_send_and_receive_what_they_do_in_their_ring(
    ranks, partition, causal, grouping
):
    where = layout(partition, 4, causal=causal, grouping=grouping)
    real = ranks.run(in_its_ring, where)
    assert any(real)

    for one in (0, 1):
        answers = ranks.run(played, where, (one, 3 - one), world_size=2)
        assert all(finite for _, finite in answers)
        for (batches, _), rank in zip(answers, (one, 3 - one), strict=True):
            assert len(batches) == len(real[rank])
            for mine, theirs in zip(batches, real[rank], strict=True):
                # of several messages of a step to one partner the order is its own
                assert sorted(mine) == sorted(theirs)
                assert mine == theirs or grouping is not None


@pytest.mark.parametrize("partition", PARTITIONS)
def test_of_two_that_play_one_rank_each_receives_all_that_it_fetches(ranks, partition):
    for world_size, rank in product((4, 8), (0, 1, -1)):
        where, rank = layout(partition, world_size, causal=True), rank % world_size
        answers = ranks.run(played, where, (rank, rank), world_size=2)
        (wanted, *_) = (p for p in plans(where, abilities(load("reference"), alibi=False))
                        if p.rank == rank)  # fmt: skip
        fetched = [[len(f.tokens) * 2 * 2 * 8 * 4 for f in s.fetches] for s in wanted.steps[1:]]
        for batches, finite in answers:
            assert finite
            got = [[size for kind, size in batch if kind == "irecv"] for batch in batches]
            forward = [sizes for sizes in fetched if sizes]
            assert got[: len(forward)] == forward


def test_four_processes_are_two_pairs(ranks):
    where = layout("zigzag", 8, causal=True)
    answers = ranks.run(played, where, (0, 7, 1, 6))
    received = [
        sum(n for b in batches for kind, n in b if kind == "irecv") for batches, _ in answers
    ]
    sent = [sum(n for b in batches for kind, n in b if kind == "isend") for batches, _ in answers]
    assert (received[0], received[2]) == (sent[1], sent[3])
    assert all(finite for _, finite in answers)
