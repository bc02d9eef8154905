"""A model of transformers' on a ring under Hugging Face accelerate, as docs/integrations.md says.

A program for ranks: it ends in an error where gradients are farther from float64 than they may be.
"""

from __future__ import annotations

import copy

import torch
from accelerate import Accelerator
from torch.distributed import destroy_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

from ring_attn_bench import position_ids, shard
from ring_attn_bench.integrations.transformers import register
from tests.tiny_models import assert_as_near, attending, made

TOKENS, ROWS, CP = 32, 2, 2


def gradients(model, text):
    """Of the mean loss, where one process holds everything."""
    model = copy.deepcopy(model)
    logits = model(text[:, :-1], use_cache=False).logits
    functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
    return [x.grad for x in model.parameters()]


def main() -> None:
    accelerator = Accelerator(cpu=True)
    ranks = accelerator.num_processes
    mesh = init_device_mesh("cpu", (ranks // CP, CP), mesh_dim_names=("dp", "cp"))
    model = made("llama")
    alone = attending(model, "eager", torch.float32)
    name = register("ring", partition="zigzag", group=mesh["cp"], backend="reference")
    model.set_attn_implementation(name)
    model = accelerator.prepare(model)  # DDP over all ranks, which takes gradients' mean

    text = torch.randint(3, 64, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(2))
    rows = slice(mesh["dp"].get_local_rank(), None, mesh["dp"].size())
    where = mesh["cp"].get_local_rank(), CP, "zigzag"
    tokens, labels = (shard(x[rows], *where) for x in (text[:, :-1], text[:, 1:]))
    positions = position_ids(TOKENS, *where)[None]
    logits = model(tokens, position_ids=positions, use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    accelerator.backward(loss / text[:, 1:].numel() * ranks)

    found = [x.grad for x in model.parameters()]
    plain, truth = (gradients(alone.to(x), text) for x in (torch.float32, torch.float64))
    assert_as_near(found, plain, truth)
    if accelerator.is_main_process:
        print(f"{len(found)} gradients are as near the truth as those of one process")
    destroy_process_group()


if __name__ == "__main__":
    main()
