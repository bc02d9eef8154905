"""What follows from a tensor's numbers, kept as long as it: every layer of a model asks for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from torch import Tensor
from torch.compiler import is_compiling
from torch.utils.weak import WeakTensorKeyDictionary

Found = TypeVar("Found")

_KEPT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""By tensor, and not on it: what is kept would be saved with it, where torch.load refuses it."""


def kept_on(x: Tensor, what: Hashable, make: Callable[[], Found]) -> Found:
    """What make gives, once for each x and what, and again after x was changed in place.

    It waits for the GPU, which a layer would do each time. It dies with x, which a model makes or
    is given for one forward pass. Of one that was made in inference mode nothing is kept: torch
    does not count its changes.
    """
    if is_compiling() or x.is_inference():
        return make()
    kept: dict[Hashable, Found] = _KEPT.setdefault(x, {})
    key = what, x._version
    if key not in kept:
        kept[key] = make()
    return kept[key]
