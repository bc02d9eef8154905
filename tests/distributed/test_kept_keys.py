"""Keys that a forward keeps for its backward, by the public functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

import ring_attn_bench
from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.ring.transports.p2p import Messages
from tests.distributed.pool import Ring
from tests.distributed.truth import PREFIXES, Case, attend, faults, shards

KEPT = RingOptions(keep_keys=True)
OPTIONS = {
    "steps": KEPT,
    "steps, one area": replace(KEPT, slots=1),
    "grouped": replace(KEPT, schedule="grouped"),
    "gather": replace(KEPT, schedule="gather"),
    "one launch": replace(KEPT, schedule="one_launch"),
    "an all-gather": replace(KEPT, transport="all_gather", schedule="gather"),
}


def with_options(ring: Ring, case: Case, options: RingOptions) -> dict[str, torch.Tensor]:
    with RingContext(ring.group, options) as context:
        return attend(ring, case, context)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("partition", PREFIXES)
def test_gradients_of_kept_keys_are_right(ranks, partition, options):
    for world_size in (1, 2, 3):
        for change in ({}, {"causal": False, "heads": 4, "batch": 2}, {"sink": True}):
            case = replace(Case(world_size, partition), **change)
            found = ranks.run(with_options, case, options, world_size=world_size)
            assert faults(case, found) == [], case


def sent(ring: Ring, case: Case, options: RingOptions) -> list[int]:
    """Bytes that this rank sends: in a forward, in its backward, and in a forward alone."""
    totals: list[int] = []
    batch = Messages.batch

    def counted(self, to, given, by, received):
        totals[-1] += sum(x.nbytes for x in given)
        return batch(self, to, given, by, received)

    q, k, v, dout = shards(case, ring.rank)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    Messages.batch = counted
    try:
        with RingContext(ring.group, options) as context:
            call = getattr(ring_attn_bench, case.function)
            totals.append(0)
            out = call(*leaves, causal=True, context=context)
            totals.append(0)
            torch.autograd.grad(out, leaves, dout)
            totals.append(0)
            with torch.no_grad():
                call(*leaves, causal=True, context=context)
    finally:
        Messages.batch = batch
    dist.barrier(ring.group)
    return totals


def test_a_backward_of_kept_keys_sends_gradients_only(ranks):
    case = Case(3, "zigzag")
    fetched = ranks.run(sent, case, RingOptions(), world_size=3)
    kept = ranks.run(sent, case, KEPT, world_size=3)
    for (forward, backward, alone), (first, then, again) in zip(fetched, kept, strict=True):
        assert forward == first == alone == again > 0
        assert then == backward - forward


def both_after_each_other(ring: Ring) -> bool:
    """Two layers and a checkpointed block: each backward has the keys of its own forward."""
    case = Case(ring.world_size, "zigzag")
    q, k, v, dout = shards(case, ring.rank)

    def gradients(options: RingOptions) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        with RingContext(ring.group, options) as context:

            def layer(x, y, z):
                return ring_attn_bench.zigzag_ring_flash_attn_func(
                    x, y, z, causal=True, context=context
                )

            first = layer(*leaves)
            again = torch.utils.checkpoint.checkpoint(
                layer, first, leaves[1] * 2, leaves[2], use_reentrant=False
            )
            return list(torch.autograd.grad(layer(again, leaves[2], first), leaves, dout))

    return all(
        torch.allclose(x, y, rtol=0, atol=1e-12)
        for x, y in zip(gradients(KEPT), gradients(RingOptions()), strict=True)
    )


def test_layers_keep_their_own_keys(ranks):
    assert all(ranks.run(both_after_each_other))
