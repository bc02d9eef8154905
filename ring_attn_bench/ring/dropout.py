"""A seed for dropout that all ranks of a ring share."""

from __future__ import annotations

import torch
import torch.distributed as dist


def drawn_seed(group: dist.ProcessGroup | None, device: torch.device) -> int:
    """Rank 0's draw from torch's default CPU generator, on every rank; a collective.

    From that generator because activation checkpointing puts it back before it runs a forward
    pass again: a counter of our own would drop other weights the second time. Every rank draws,
    so that generators that were alike stay alike.
    """
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64).to(device)
    dist.broadcast(seed, group=group, group_src=0)
    return int(seed.item())
