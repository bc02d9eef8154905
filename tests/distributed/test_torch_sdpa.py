"""Our kernels inside torch's own ring, its context_parallel, by the operators that it calls."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.experimental._context_parallel import _attention as theirs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ring_attn_bench import shard
from ring_attn_bench.integrations.torch_sdpa import Kernels
from tests.tiny_models import assert_as_near

SHAPE = 2, 3, 32, 16
"""Batch, heads, tokens of the whole sequence, head dim."""


def whole(dtype):
    seeded = torch.Generator().manual_seed(9)
    return [torch.randn(SHAPE, generator=seeded).to(dtype) for _ in range(4)]


def alone(dtype, causal):
    """out, and the gradients of q, k and v, of the whole sequence by plain torch."""
    *given, dout = whole(dtype)
    given = [x.requires_grad_() for x in given]
    with sdpa_kernel(SDPBackend.MATH):
        out = scaled_dot_product_attention(*given, is_causal=causal)
    return [out.detach(), *torch.autograd.grad(out, given, dout)]


def in_their_ring(ring, causal):
    """Raises where a rank's part is farther from the truth than plain torch's."""
    mesh = DeviceMesh.from_group(ring.group or dist.group.WORLD, "cpu", mesh_dim_names=("cp",))
    where = ring.rank, ring.world_size, "zigzag" if causal else "contiguous"
    q, k, v, dout = (shard(x, *where, dim=2) for x in whole(torch.float32))
    was = theirs._cp_options.enable_load_balance
    theirs._cp_options.enable_load_balance = causal
    installed = Kernels("reference").installed("CPU")
    try:
        out, lse, *others = theirs._scaled_dot_product_ring_flash_attention(
            mesh, q, k, v, is_causal=causal
        )
        starts, longest, state = others[:2], others[2:4], others[4:6]
        gradients = theirs._scaled_dot_product_ring_flash_attention_backward(
            mesh, dout, q, k, v, out, lse, *starts, *longest, 0.0, causal, *state
        )
    finally:
        installed.remove()
        theirs._cp_options.enable_load_balance = was
    plain, truth = (
        [shard(x, *where, dim=2) for x in alone(dtype, causal)]
        for dtype in (torch.float32, torch.float64)
    )
    assert_as_near([out, *gradients], plain, truth)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_torchs_own_ring_of_our_blocks_is_as_near_the_truth_as_one_process(
    ranks, causal, world_size
):
    ranks.run(in_their_ring, causal, world_size=world_size, limit=60)
