"""Values of documents with room for others, on gloo ranks: they stand for the last batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ring_attn_bench import (
    RingContext,
    RingOptions,
    document_position_ids,
    documents,
    refill_documents,
    ring_attn_varlen_func,
)
from tests.distributed.documents import Packed, faults
from tests.distributed.pool import Raised, Ring


def values(case: Packed, more: Packed) -> tuple[object, object]:
    whole = case.world_size * case.tokens
    where = case.partition, case.world_size, whole
    return documents(case.starts, *where, capacity=8), documents(more.starts, *where)


def attended(ring: Ring, case: Packed, value: object, context: RingContext):
    *leaves, dout = (x[case.order(ring.rank)].clone() for x in case.inputs())
    leaves = [x.requires_grad_() for x in leaves]
    out, lse, _ = ring_attn_varlen_func(
        *leaves, value, context=context, backend=case.backend, return_attn_probs=True,
        **case.options,
    )  # fmt: skip
    gradients = torch.autograd.grad(out, leaves, dout)
    found = {"out": out.detach(), "lse": lse.detach()}
    return found | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def before_and_after(ring: Ring, case: Packed, more: Packed):
    captured, batch = values(case, more)
    with RingContext(ring.group) as context:
        first = attended(ring, case, captured, context)
        refill_documents(captured, batch)
        ids = document_position_ids(captured, ring.rank)
        assert torch.equal(ids, document_position_ids(batch, ring.rank))
        return first, attended(ring, more, captured, context)


@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "striped"])
def test_calls_are_of_the_first_batch_and_then_of_the_other(ranks, partition):
    case = Packed(3, (0, 1, 7, 7, 19, 22), partition)
    more = replace(case, starts=(0, 12, 13, 22))
    first, second = zip(*ranks.run(before_and_after, case, more, world_size=3), strict=True)
    assert faults(case, first) == []
    assert faults(more, second) == []


def by_blocks(ring: Ring, case: Packed, options: RingOptions):
    captured, _ = values(case, case)
    with RingContext(ring.group, options) as context:
        attended(ring, case, captured, context)


@pytest.mark.parametrize(
    ("backend", "options"),
    [("reference", RingOptions(schedule="steps")), ("aten", RingOptions())],
    ids=["steps", "a kernel of blocks"],
)
def test_what_makes_no_one_launch_is_refused(ranks, backend, options):
    case = Packed(2, (0, 5, 16), backend=backend, dtype=torch.float32)
    for raised in ranks.outcomes(by_blocks, case, options, world_size=2):
        assert isinstance(raised, Raised)
        assert "documents with a capacity are one launch" in str(raised)
