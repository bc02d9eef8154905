"""FSDP2 with a ring, in plain torch: rows of a batch over a mesh's one axis, tokens over the other.

    torchrun --nproc-per-node=4 examples/fsdp2.py [--cp 2] [--replicate]

Every parameter is sharded over all ranks; with --replicate over cp, and copied over dp. Layers are
checkpointed. Exits with 1 unless the losses are those of plain PyTorch in one process. Over gloo
on CPUs, over NCCL on GPUs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import RingAttention, position_ids, shard

ROWS, TOKENS, WORDS, LAYERS, HEADS, WIDTH = 4, 64, 50, 2, 4, 128
PARTITION = "zigzag"  # causal work is even over the ranks


class Model(nn.Module):
    """Knows nothing of ranks: it is given tokens, where they stand, and an attention."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)  # the same parameters on every rank
        self.word, self.place = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList(Block(attention) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """logits (rows * tokens, words)."""
        x = self.word(tokens) + self.place(positions)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)  # the ring runs again in the backward
        return self.head(x.flatten(0, 1))


class Block(nn.Module):
    """Attention between two projections, added to what came in."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm, self.qkv = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.attention, self.out = attention, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, tokens, width), as x."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, HEADS, -1)).unbind(2)
        return x + self.out(self.attention(q, k, v).flatten(2))


def on_mesh(mesh: DeviceMesh, dtype: torch.dtype, *, replicate: bool = False) -> Model:
    """One ring along cp for all layers, and FSDP around each of them."""
    model = Model(RingAttention(PARTITION, mesh["cp"], causal=True)).to(mesh.device_type)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh if replicate else None, mp_policy=policy)
    return model


def loss_of(
    model: Model, ids: Tensor, labels: Tensor, dp: tuple[int, int], cp: tuple[int, int]
) -> Tensor:
    """This rank's part of the batch's mean loss, times the ranks: FSDP takes gradients' mean.

    ids, labels: whole rows. Labels are shifted before they are dealt, and -100 where none counts:
    ranks have different numbers of them. dp, cp: rank and number of ranks, of each axis.
    """
    here = [shard(x[dp[0] :: dp[1]], *cp, PARTITION) for x in (ids, labels)]
    logits = model(here[0], position_ids(TOKENS, *cp, PARTITION, ids.device))
    loss = functional.cross_entropy(logits.float(), here[1].flatten(), reduction="sum")
    return loss / (labels >= 0).sum() * dp[1] * cp[1]


def batch() -> tuple[Tensor, Tensor]:
    """Whole rows, and what stands next, but for prompts of 3 to 24 tokens, which do not count."""
    text = torch.randint(WORDS, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(1))
    in_prompt = torch.arange(TOKENS) < torch.arange(3, 3 + 7 * ROWS, 7)[:, None]
    return text[:, :-1], text[:, 1:].masked_fill(in_prompt, -100)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--cp", type=int, default=2, help="ranks of a ring")
    options.add_argument("--replicate", action="store_true", help="parameters over dp")
    asked = options.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    if asked.cp < 1 or dist.get_world_size() % asked.cp:
        options.error(
            f"--cp is {asked.cp}; it must divide the {dist.get_world_size()} ranks that torchrun "
            "started."
        )
    shape = dist.get_world_size() // asked.cp, asked.cp
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("dp", "cp"))
    where = [(mesh[axis].get_local_rank(), mesh[axis].size()) for axis in ("dp", "cp")]

    dtype, tolerance = (torch.bfloat16, 2e-2) if on_gpu else (torch.float32, 1e-5)
    ids, labels = (x.to(device) for x in batch())
    ways = [(on_mesh(mesh, dtype, replicate=asked.replicate), where)]
    ways += [(Model(plain).to(device, dtype), [(0, 1), (0, 1)])]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5) for model, _ in ways]
    equal = True
    for step in range(3):
        found, right = losses = [loss_of(model, ids, labels, *where) for model, where in ways]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        found = found.detach() / mesh.size()
        dist.all_reduce(found)
        equal &= abs(found / right - 1).item() <= tolerance
        if dist.get_rank() == 0:
            print(f"step {step}: loss {found:.6f}, of one process {right:.6f}", flush=True)
    if dist.get_rank() == 0:
        print(f"dp, cp = {shape}: losses {'equal' if equal else 'NOT EQUAL'}")
    dist.destroy_process_group()
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
