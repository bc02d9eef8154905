"""What means the same is the same call, on whichever rank it is written so."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import shard, zigzag_ring_flash_attn_func
from tests.distributed.pool import Ring


def moved(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, with a last dim that is not contiguous."""
    return x.mT.contiguous().mT


def attended(ring: Ring, backend: str, other_rank: int | None) -> list[torch.Tensor]:
    """out, dq, dk and dv of this rank; one rank calls with strides and a softcap of its own."""
    random = torch.Generator().manual_seed(0)
    whole = [torch.randn(1, 16, heads, 8, generator=random) for heads in (4, 2, 2, 4)]
    *inputs, dout = (shard(x, ring.rank, ring.world_size, "zigzag") for x in whole)
    softcap = 0.0
    if ring.rank == other_rank:
        inputs, softcap = [moved(x) for x in inputs], -1.0
        assert all(x.stride(-1) != 1 for x in inputs)
    leaves = [x.requires_grad_() for x in inputs]
    out = zigzag_ring_flash_attn_func(
        *leaves, causal=True, softcap=softcap, backend=backend, group=ring.group
    )
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_a_rank_may_have_other_strides_and_another_word_for_no_softcap(ranks, backend):
    right = ranks.run(attended, backend, None, world_size=2)
    for rank in (0, 1):
        found = ranks.run(attended, backend, rank, world_size=2)
        for ours, theirs in zip(found, right, strict=True):
            assert all(map(torch.equal, ours, theirs))
