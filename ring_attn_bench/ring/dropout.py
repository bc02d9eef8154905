"""A seed for dropout that all ranks of a ring share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from ring_attn_bench.calls.options import drawn_seed


def shared_seed(
    group: dist.ProcessGroup | None, device: torch.device, draw: Callable[[], int] = drawn_seed
) -> int:
    """Rank 0's draw, on every rank; a collective.

    Every rank draws, so that generators that were alike stay alike.
    """
    seed = torch.tensor([draw()], dtype=torch.int64, device=device)
    dist.broadcast(seed, group=group, group_src=0)
    return int(seed.item())
