"""Memory of this rank that the other ranks of the ring can read and write."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Area:
    """So many bytes on every rank; a collective. addresses: of each rank's, as seen from here."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device, size: int) -> None:
        from torch.distributed import _symmetric_memory as symmetric

        self.memory: Tensor = symmetric.empty(max(size, 16), dtype=torch.uint8, device=device)
        self._handle = symmetric.rendezvous(self.memory, group)
        self.addresses: list[int] = list(self._handle.buffer_ptrs)
        self.size = size

    def of(self, rank: int) -> Tensor:
        """A rank's memory, (bytes,)."""
        return self._handle.get_buffer(rank, (self.memory.numel(),), torch.uint8)
