"""What autocast does to a function's inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def as_autocast(x: Tensor) -> Tensor:
    """The tensor as autocast would hand it to torch's own attention."""
    if not isinstance(x, Tensor) or not torch.amp.is_autocast_available(x.device.type):
        return x
    if not torch.is_autocast_enabled(x.device.type):
        return x
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))
