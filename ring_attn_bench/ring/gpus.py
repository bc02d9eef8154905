"""Which GPU the ranks of a ring have, if all have one kind: what its measured figures go by."""

from __future__ import annotations

import json

import torch
import torch.distributed as dist

from ring_attn_bench.ring.carriers import backend_of_device_types, this_host


def shared_gpu(group: dist.ProcessGroup) -> str:
    """The name of the GPU that every rank has, all of them in one host; else nothing.

    A collective, alike on every rank. It goes by the store in which the processes met, because a
    collective of a GPU's backend would need the device that a rank may choose later.
    """
    if backend_of_device_types(group).get("cuda") != "nccl":
        return ""
    assert dist.group.WORLD is not None
    store, rank = dist.group.WORLD.get_group_store(), dist.get_rank(group)
    # a context's group has a name of its own: ranks cannot read what another one's left here
    name = f"ring_attn_bench/gpu/{group.group_name}"
    keys = [f"{name}/{other}" for other in range(dist.get_world_size(group))]
    store.set(keys[rank], json.dumps([this_host(), _here()]))
    machines = {tuple(json.loads(store.get(key))) for key in keys}
    host, gpu = machines.pop()
    return str(gpu) if host and not machines else ""


def _here() -> str:
    if not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name(torch.cuda.current_device())
