"""Two GPUs: a pass that was captured with one batch's documents is replayed with others'."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import (
    RingContext,
    RingOptions,
    documents,
    refill_documents,
    ring_attn_varlen_func,
)
from tests.distributed.pool import RankPool, Ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

LIMIT = 200.0  # of a call: every rank compiles what is new in it
TOKENS, MOST = 1024, 12
COPIES = RingOptions("copy_engine", schedule="one_launch")
MESSAGES = RingOptions("p2p", schedule="steps")


@pytest.fixture(scope="module")
def ranks():
    with closing(RankPool(2, "nccl")) as pool:
        yield pool


def starts_of(dice: random.Random, whole: int) -> list[int]:
    count = dice.randint(0, MOST - 1)
    return [0, *sorted(dice.randint(0, whole) for _ in range(count)), whole]


def passes(context: RingContext, value: object, alibi: bool, *given: Tensor) -> list[Tensor]:
    """out and gradients; slopes take the plain kernels, none Hopper's own where there are some."""
    *leaves, dout = given
    leaves = [x.detach().requires_grad_() for x in leaves]
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], device=dout.device) if alibi else None
    out = ring_attn_varlen_func(
        *leaves, value, causal=True, context=context, backend="triton", alibi_slopes=slopes
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def replayed(ring: Ring, partition: str, alibi: bool, replays: int) -> float:
    """The worst relative difference of replays from calls by messages, which know no room."""
    worst, whole, dice = 0.0, TOKENS * ring.world_size, random.Random(3)
    device = torch.device("cuda", torch.cuda.current_device())
    shapes = [(TOKENS, heads, 128) for heads in (4, 2, 2, 4)]
    given = [torch.randn(s, device=device, dtype=torch.bfloat16) for s in shapes]
    where = partition, ring.world_size, whole
    with RingContext(ring.group, COPIES) as context, RingContext(ring.group, MESSAGES) as other:
        captured = documents(starts_of(dice, whole), *where, capacity=MOST)
        for _ in range(3):
            passes(context, captured, alibi, *given)
        torch.cuda.synchronize()
        dist.barrier()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = passes(context, captured, alibi, *given)
        for _ in range(replays):
            batch = documents(starts_of(dice, whole), *where)
            refill_documents(captured, batch)
            for result in results:
                result.fill_(float("nan"))
            graph.replay()
            for found, right in zip(results, passes(other, batch, alibi, *given), strict=True):
                apart = (found.float() - right.float()).abs().max() / right.float().abs().max()
                worst = max(worst, float(apart) if apart == apart else float("inf"))
        torch.cuda.synchronize()
        dist.barrier()
    return worst


@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "striped"])
def test_replays_with_other_documents_are_right(ranks, partition, alibi):
    assert max(ranks.run(replayed, partition, alibi, 20, limit=LIMIT)) < 0.02
