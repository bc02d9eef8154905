"""One attention layer over a sequence that no rank holds whole, compared with one device.

    torchrun --nproc-per-node=2 examples/long_context.py

Every rank keeps its shard of the hidden states, projects it, turns q and k by the positions its
tokens have in the whole sequence, and attends to the whole sequence through the ring. Runs over
gloo on CPUs and over NCCL on GPUs; exits with 1 if the result is not that of one device.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from ring_attn_bench import position_ids, shard, unshard, zigzag_ring_flash_attn_func

HEADS, KEY_HEADS, HEAD_DIM = 8, 2, 64
PARTITION = "zigzag"  # causal work is even over the ranks


def main() -> int:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dtype, tolerance = (torch.bfloat16, 2e-2) if on_gpu else (torch.float32, 1e-5)

    torch.manual_seed(0)  # the same whole sequence and weights on every rank
    seqlen = (8192 if on_gpu else 256) * world_size
    width = HEADS * HEAD_DIM
    hidden = torch.randn(1, seqlen, width, device=device, dtype=dtype)
    weight = torch.randn(width + 2 * KEY_HEADS * HEAD_DIM, width, device=device, dtype=dtype)
    weight *= width**-0.5

    # what a training step would do: only the shard is ever projected
    local = shard(hidden, rank, world_size, PARTITION)
    positions = position_ids(seqlen, rank, world_size, PARTITION, device)
    q, k, v = projected(local, weight, positions)
    out = zigzag_ring_flash_attn_func(q, k, v, causal=True)
    whole = unshard(out, PARTITION)

    error, size = difference(whole, hidden, weight)
    equal = error <= tolerance * size
    if rank == 0:
        verdict = "equal to" if equal else "NOT EQUAL to"
        print(
            f"{seqlen} tokens on {world_size} ranks ({device.type}, {dtype}): {verdict} one "
            f"device, largest error {error:.2e} of values up to {size:.2e}"
        )
    dist.destroy_process_group()
    return 0 if equal else 1


def projected(hidden: Tensor, weight: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v (batch, tokens, heads, dim) of some tokens, q and k turned by their positions."""
    heads = functional.linear(hidden, weight).unflatten(-1, (-1, HEAD_DIM))
    q, k, v = heads.split([HEADS, KEY_HEADS, KEY_HEADS], dim=2)
    return rotated(q, positions), rotated(k, positions), v


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021): pairs of channels turned by an angle per position."""
    half = HEAD_DIM // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = positions[:, None, None] * frequencies  # (tokens, 1, half)
    a, b = x.to(torch.float64).chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def difference(whole: Tensor, hidden: Tensor, weight: Tensor) -> tuple[float, float]:
    """The largest error against one device that holds everything, and the largest value."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    q, k, v = (x.transpose(1, 2) for x in projected(hidden, weight, positions))
    right = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    right = right.transpose(1, 2).double()
    return (whole.double() - right).abs().max().item(), right.abs().max().item()


if __name__ == "__main__":
    sys.exit(main())
