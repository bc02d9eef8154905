"""What launches ask of a tensor's GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SMS = 132
"""Multiprocessors of an H100 or H200."""


def multiprocessors(q: Tensor) -> int:
    """How many multiprocessors the tensor's GPU has."""
    if q.device.type != "cuda":
        return SMS  # the tests have tensors without memory
    return torch.cuda.get_device_properties(q.device).multi_processor_count
