"""Spoils the memory that a kernel will be given, so that what it does not write is seen."""

from __future__ import annotations

from collections.abc import Iterable

import torch

COPIES = 4
"""Of each size: more than the outputs and copies of one size that a call makes at a time."""
_SMALL, _LARGE = 2**20, 20 * 2**20
"""Bytes: what torch's CUDA allocator takes from its pools of small and of large blocks."""


def poison(device: str, like: Iterable[torch.Tensor]) -> None:
    """Leaves NaN in the memory that the next tensors of these sizes will lie in.

    Every bit is set, which is NaN in all float dtypes. A block of the right size that was freed
    before may hold the very results of the last call, and pages fresh from the system hold zeros:
    both would hide an output that is not written, or added to without having been cleared.
    """
    counts = {count for x in like for count in (x.numel(), x.numel() // x.shape[-1])}  # and lse
    sizes = {count * width for count in counts for width in (2, 4, 8)}
    held = [_spoilt(size, device) for size in sizes for _ in range(COPIES)]
    if device == "cuda":
        held += [_spoilt(_SMALL - 512, device) for _ in range(32)]
        held += [_spoilt(_LARGE - 512, device) for _ in range(4)]
    del held


def _spoilt(size: int, device: str) -> torch.Tensor:
    return torch.full((size,), 255, dtype=torch.uint8, device=device)
