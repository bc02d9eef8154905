"""Outgoing memory for transports that send from any tensor."""

from __future__ import annotations

import torch
from torch import Tensor


class FreshMemory:
    """A buffer of its own for each pass, by torch's allocator.

    The allocator hands memory out again in the order of the stream, behind the waits that end a
    pass: so passes that overlap (two layers forward, a checkpointed block inside a backward) share
    nothing, and nothing is kept between them.
    """

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """New memory (tokens, width)."""
        return torch.empty(tokens, width, dtype=dtype, device=device)
