"""The recipe of examples/fsdp2.py: its losses and gradients against one process, in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

from examples import fsdp2
from ring_attn_bench import shard
from tests.patience import limit
from tests.tiny_models import assert_as_near

CHECKOUT = Path(__file__).parents[2]


def alone(dtype):
    """Loss and gradients where one process holds everything, by torch's own mean."""
    model = fsdp2.Model(fsdp2.plain).to(dtype)
    ids, labels = fsdp2.batch()
    logits = model(ids, torch.arange(fsdp2.TOKENS))
    loss = functional.cross_entropy(logits, labels.flatten())
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def on_mesh(shape, replicate, own_mean):
    """The same of the mesh, gradients put together again; own_mean: each rank's loss is its own."""
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "cp"))
    where = [(mesh[axis].get_local_rank(), mesh[axis].size()) for axis in ("dp", "cp")]
    model = fsdp2.on_mesh(mesh, torch.float32, replicate=replicate)
    ids, labels = fsdp2.batch()
    loss = fsdp2.loss_of(model, ids, labels, *where)
    if own_mean:
        (row, rows), cp = where
        count = (shard(labels[row::rows], *cp, fsdp2.PARTITION) >= 0).sum()
        loss = loss / mesh.size() * (labels >= 0).sum() / count
    loss.backward()
    total = loss.detach() / mesh.size()
    dist.all_reduce(total)
    return [total, *(p.grad.full_tensor() for p in model.parameters())]


def held_together(ring, shape, replicate, own_mean=False):
    """Raises where the mesh is farther from the truth than plain torch may be."""
    found = on_mesh(shape, replicate, own_mean)
    assert_as_near(found, alone(torch.float32), alone(torch.float64))


@pytest.mark.parametrize("replicate", [False, True], ids=["sharded", "replicated"])
@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (4, 1)], ids=str)
def test_loss_and_gradients_on_a_mesh_are_as_near_the_truth_as_one_processs(
    ranks, shape, replicate
):
    ranks.run(held_together, shape, replicate, limit=60)


def test_a_mean_of_each_ranks_own_labels_is_not_within_the_bound(ranks):
    for found in ranks.outcomes(held_together, (2, 2), False, True, limit=60):
        assert "AssertionError" in found.kinds


@pytest.mark.parametrize("options", ["2", "4 --replicate"])
def test_the_example_trains_as_one_process_does(options):
    world_size, *options = options.split()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world_size}", "examples/fsdp2.py", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stdout + done.stderr
    *steps, last = done.stdout.splitlines()
    assert len(steps) == 3
    assert last == f"dp, cp = ({int(world_size) // 2}, 2): losses equal"


def test_a_ring_that_does_not_divide_the_ranks_is_a_sentence():
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1",
        "examples/fsdp2.py", "--cp", "2",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(60))
    assert "error: --cp is 2; it must divide the 1 ranks that torchrun started." in done.stderr
