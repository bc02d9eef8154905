"""Where the ranks of a ring are, and whether they can read each other's memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from ring_attn_bench.ring.carriers import message_device, this_host
from ring_attn_bench.ring.transports.copy_engine.memory_operations import driver

_WIDTH = 512
"""Bytes of a place's text, at most."""


@dataclass(frozen=True, slots=True)
class GpuOfHost:
    """A rank's host, by the number of its last boot, and its GPU, by its UUID.

    lacks: what it has none of, in words, or nothing.
    """

    host: str
    gpu: str
    lacks: str


def here() -> GpuOfHost:
    """The host and the GPU of this rank."""
    host = this_host()
    if not torch.cuda.is_available():
        return GpuOfHost(host, "", "no CUDA device")
    gpu = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    if driver() is None:
        return GpuOfHost(host, gpu, "no CUDA driver with stream memory operations")
    try:
        from torch.distributed import _symmetric_memory as symmetric
    except ImportError:
        return GpuOfHost(host, gpu, "no symmetric memory in its torch")
    lacks = "" if hasattr(symmetric, "rendezvous") else "no symmetric memory in its torch"
    return GpuOfHost(host, gpu, lacks)


def everyones(group: dist.ProcessGroup) -> list[GpuOfHost]:
    """The places of a group's ranks, in their order; a collective."""
    text = json.dumps(asdict(here())).encode()
    assert len(text) <= _WIDTH
    padded, where = [*text, *b" " * (_WIDTH - len(text))], message_device(group)
    mine = torch.tensor(padded, dtype=torch.uint8, device=where)
    of_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(of_ranks, mine, group=group)
    return [GpuOfHost(**json.loads(bytes(theirs.tolist()))) for theirs in of_ranks]


def why_apart(places: Sequence[GpuOfHost]) -> str | None:
    """Why ranks at these places cannot read each other's memory, or None; alike on every rank."""
    if len(places) == 1:
        return "a ring of one rank has nobody to read from"
    for rank, place in enumerate(places):
        if place.lacks:
            return f"rank {rank} has {place.lacks}"
        if place.host != places[0].host:
            return f"rank {rank} is on another host than rank 0"
    return None
