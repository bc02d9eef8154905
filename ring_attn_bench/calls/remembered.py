"""Calls that were checked and chosen before: they follow from shapes, dtypes and numbers alone.

Checks and choice take the host 50 to 100 us, and a layer makes the same call again and again.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Call = TypeVar("Call")

KEPT = 1024
"""Calls that are kept at most, where nothing else is said."""


class Remembered(Generic[Call]):
    """Calls by their keys. most: that are kept, of which all are forgotten when one more comes."""

    def __init__(self, most: int | None = None) -> None:
        self._most = KEPT if most is None else most
        self._found: dict[Hashable, Call] = {}
        self._last: tuple[Hashable, Call] | None = None

    def find(self, key: Hashable) -> Call | None:
        """The call of that key, if there is one; None is a key that nothing is kept for."""
        if key is None:
            return None
        last = self._last  # one read: another thread may have found another
        if last is not None and last[0] == key:  # sooner than its hash
            return last[1]
        call = self._found.get(key)
        if call is not None:
            self._last = key, call
        return call

    def keep(self, key: Hashable, call: Call) -> None:
        """Keeps what was made, unless its key is None."""
        if key is None:
            return
        if len(self._found) >= self._most:
            self._found.clear()
        self._last = None
        self._found[key] = call


class RememberedOf(Remembered[Call]):
    """What is remembered of calls of one thing, in a memory of several things' calls."""

    def __init__(self, whole: Remembered[Call], of: Hashable) -> None:
        self._whole, self._of = whole, of

    def find(self, key: Hashable) -> Call | None:
        """As there."""
        return None if key is None else self._whole.find((self._of, key))

    def keep(self, key: Hashable, call: Call) -> None:
        """As there."""
        self._whole.keep(None if key is None else (self._of, key), call)


def key_of(tensors: tuple[Tensor | None, ...], *numbers: object) -> Hashable:
    """All that checks and choice look at; None where something is not what it should be, or is of
    a subclass of Tensor's, which is looked at each time.

    tensors: q, k, v and what else a call is given, at its own place in every call.
    """
    try:
        looks: list[object] = []
        for x in tensors:
            if x is None:
                looks.append(None)
                continue
            if type(x) is not Tensor and type(x) is not Parameter:
                return None  # whether a FakeTensor will do follows from the modes around it
            # autograd keeps nothing of inference mode
            looks.append(
                (x.shape, x.stride(), x.dtype, x.device, x.requires_grad, x.is_inference())
            )
        key = (torch.is_grad_enabled(), *looks, *numbers)
        hash(key)
    except Exception:  # no tensor, or none that has strides: refused where everything is checked
        return None
    return key
