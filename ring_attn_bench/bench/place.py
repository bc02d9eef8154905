"""Where a worker process stands: its device, and the ranks of the ring that it plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class WorkerPlace:
    """One process of a worker group.

    processes: how many there are. ranks: the ring ranks that this one plays: its own,
    or by loopback all of them, or that which it is told of a larger ring.
    """

    process: int
    processes: int
    device: torch.device
    ranks: tuple[int, ...]
    world_size: int

    @classmethod
    def here(cls, world_size: int) -> WorkerPlace:
        """This process's place in a ring of `world_size`; call it after init_process_group."""
        process, processes = dist.get_rank(), dist.get_world_size()
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        ranks = tuple(range(world_size)) if processes == 1 else (process,)
        return cls(process, processes, device, ranks, world_size)

    def playing(self, ranks: Sequence[int], world_size: int) -> WorkerPlace:
        """The same where processes play these ranks of a ring of that many."""
        return replace(self, ranks=(ranks[self.process],), world_size=world_size)

    def alone(self) -> WorkerPlace:
        """This process with all ranks of the ring, as if there were no other."""
        return replace(self, processes=1, ranks=tuple(range(self.world_size)))

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(x)
        return x

    def largest(self, x: Tensor) -> Tensor:
        """The elementwise maximum over all processes, in place."""
        if self.processes > 1:
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return x

    def line_up(self) -> None:
        """Starts all processes (or, on GPUs, what they queue next) at one time."""
        if self.processes == 1:
            return
        if self.device.type == "cuda":
            dist.all_reduce(torch.zeros(1, device=self.device))
        else:
            dist.barrier()
