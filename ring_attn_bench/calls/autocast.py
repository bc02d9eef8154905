"""What autocast does to a function's inputs, and where it has no business."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_NOTHING: AbstractContextManager[None] = nullcontext()


def as_autocast(x: Tensor) -> Tensor:
    """The tensor as autocast would hand it to torch's own attention."""
    if not isinstance(x, Tensor) or not _is_enabled(x.device.type):
        return x
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """For a pass, whose dtypes are its own; nothing where there is no autocast, which is faster."""
    return torch.autocast(device_type, enabled=False) if _is_enabled(device_type) else _NOTHING


def _is_enabled(device_type: str) -> bool:
    if not torch.amp.is_autocast_available(device_type):
        return False
    return torch.is_autocast_enabled(device_type)
