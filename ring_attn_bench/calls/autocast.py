"""What autocast does to a function's inputs, and where it has no business."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

_NOTHING: AbstractContextManager[None] = nullcontext()


def as_autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as autocast on q's device would hand them to torch's own attention."""
    if not isinstance(q, Tensor) or not is_enabled(q.device.type):
        return q, k, v
    dtype = torch.get_autocast_dtype(q.device.type)
    return cast(q, dtype), cast(k, dtype), cast(v, dtype)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as autocast to that dtype would hand it on; what is no tensor as it is."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return x
    return x.to(dtype)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """For a pass, whose dtypes are its own; nothing where there is no autocast, which is faster."""
    return torch.autocast(device_type, enabled=False) if is_enabled(device_type) else _NOTHING


def is_enabled(device_type: str) -> bool:
    """Whether autocast is on, on devices of that type."""
    return _is_available(device_type) and torch.is_autocast_enabled(device_type)


@cache
def _is_available(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)
