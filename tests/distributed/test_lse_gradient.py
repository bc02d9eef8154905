"""lse is differentiable on a ring, for all ranks or some, with out and without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ring_attn_bench import ring_attn_func
from tests.dense_truth import truth
from tests.distributed.pool import Ring
from tests.distributed.truth import Case, inputs, positions, shards

USES = {
    "lse alone": ["lse"] * 3,
    "out and lse": ["out lse"] * 3,
    "one rank's lse": ["out", "out lse", "out"],
    "no out of one rank": ["out lse", "lse", "out"],
}


def dlse_of(case: Case) -> Tensor:
    random = torch.Generator().manual_seed(9)
    shape = case.batch, case.heads, case.tokens * case.world_size
    return torch.randn(shape, generator=random, dtype=torch.float64)


def loss(out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor, uses: str) -> Tensor:
    of_out, of_lse = (out * dout).sum(), (lse * dlse).sum()
    return {"out": of_out, "lse": of_lse, "out lse": of_out + of_lse}[uses]


def own(case: Case, rank: int) -> Tensor:
    return positions(case.partition, rank, case.world_size, case.tokens * case.world_size)


def gradients(ring: Ring, case: Case, uses: list[str]) -> list[Tensor]:
    *qkv, dout = shards(case, ring.rank)
    leaves = [x.requires_grad_() for x in qkv]
    if case.sink:
        leaves.append(case.sinks.requires_grad_())
    out, lse, _ = ring_attn_func(
        *leaves[:3], partition=case.partition, return_attn_probs=True, group=ring.group,
        sink=leaves[3] if case.sink else None, **case.options,
    )  # fmt: skip
    dlse = dlse_of(case)[..., own(case, ring.rank)]
    return torch.autograd.grad(loss(out, lse, dout, dlse, uses[ring.rank]), leaves)


def truth_of(parts: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(sum(parts), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


@pytest.mark.parametrize("backend", ["reference", "aten"])
@pytest.mark.parametrize("uses", USES)
@pytest.mark.parametrize("partition", ["zigzag", "striped"])
def test_gradients_of_lse_are_those_of_one_device(ranks, backend, uses, partition):
    case = Case(3, partition, 8, heads=4, batch=2, backend=backend, sink=uses == "out and lse")
    answers = ranks.run(gradients, case, USES[uses], world_size=3)

    q, k, v, dout = inputs(case)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    sink = case.sinks.requires_grad_() if case.sink else None
    out, lse = truth(q, k, v, causal=True, sink=sink)
    parts = [
        loss(out[:, at], lse[..., at], dout[:, at], dlse_of(case)[..., at], USES[uses][rank])
        for rank, at in enumerate(own(case, rank) for rank in range(3))
    ]
    right = truth_of(parts, leaves + ([sink] if case.sink else []))

    for rank, found in enumerate(answers):
        for mine, whole in zip(found[:3], right[:3], strict=True):
            torch.testing.assert_close(mine, whole[:, own(case, rank)], rtol=0, atol=1e-12)
    if case.sink:  # each rank has its rows' share
        total = sum(found[3] for found in answers)
        torch.testing.assert_close(total, right[3], rtol=0, atol=1e-12)
