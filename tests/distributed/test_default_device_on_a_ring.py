"""A ring needs nothing of torch's default device, which a program may have set to another one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ring_attn_bench import RingContext, RingOptions, shard, unshard, zigzag_ring_flash_attn_func
from tests.distributed.pool import Ring

WHOLE = torch.randn(1, 16, 2, 8, generator=torch.Generator().manual_seed(1))


def computed(ring: Ring, x: Tensor, options: RingOptions, backend: str) -> list[Tensor]:
    """Of a call that draws a seed, and of what puts shards together."""
    torch.manual_seed(5)
    with RingContext(ring.group, options) as context:
        context.reserve(4, 4, torch.float32, torch.device("cpu"))
        out = zigzag_ring_flash_attn_func(
            x, x, x, causal=True, backend=backend, context=context,
            dropout_p=0.3 if backend == "reference" else 0.0,
        )  # fmt: skip
        whole = unshard(out, "zigzag", ring.group)
        return [whole.detach(), *torch.autograd.grad(whole.square().sum(), x)]


def alike(ring: Ring, options: RingOptions, backend: str) -> bool:
    x = shard(WHOLE, ring.rank, ring.world_size, "zigzag").requires_grad_()
    expected = computed(ring, x, options, backend)
    with torch.device("meta"):
        found = computed(ring, x, options, backend)
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        (RingOptions(), "aten"),
        (RingOptions(), "reference"),
        (RingOptions(schedule="gather"), "reference"),
        (RingOptions(schedule="one_launch"), "reference"),
        (RingOptions("all_gather"), "aten"),
    ],
)
def test_a_ring_works_whatever_the_default_device_is(ranks, options, backend):
    assert ranks.run(alike, options, backend, world_size=2) == [True] * 2
