"""Triton kernels called again, with other tensors of the same shapes and everything else as it was.

For each call Triton's own launcher looks at every argument and encodes every TMA descriptor: 20 to
40 us of the host for a kernel with forty arguments, where some kernels take the GPU no longer. A
call that was made once is kept here with its parameters packed; again, only addresses are filled
in, and CUDA's driver is called. What a call depends on is the caller's key (`signature`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate
from math import ceil, prod
from operator import methodcaller
from typing import TYPE_CHECKING

from ring_attn_bench.relaunch.calls import (
    DriverCalls,
    Made,
    Repeatable,
    is_tensor,
    repeatable,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Kept", "Made", "Relaunch", "placement", "relaunch", "signature"]

KEPT = 4096
"""Launches that are kept at most: then all are forgotten. A ring has some, new lengths are new."""
_address = methodcaller("data_ptr")
_LINE = 64
"""Elements that a part of the scratch is a multiple of, so that all parts are aligned."""


class Relaunch:
    """Calls that follow one another, and the float32 numbers that they need between them."""

    def __init__(self, calls: Sequence[Repeatable], scratch: Sequence[tuple[int, ...]]) -> None:
        import torch
        from triton.runtime import driver

        self._calls = calls
        sizes = [_LINE * ceil(prod(shape) / _LINE) for shape in scratch]
        self.scratch, self._starts = sum(sizes), list(accumulate(sizes, initial=0))[:-1]
        self._bytes = [4 * start for start in self._starts]
        self.by_address = all(isinstance(call, DriverCalls) for call in calls)
        self._torch, self.stream_of = torch, driver.active.get_current_stream
        # torch.cuda's asks first whether CUDA has begun, which it has: a kernel was launched
        self.current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)

    def run(self, tensors: tuple[Tensor, ...]) -> None:
        """Enqueues them for these tensors, on the current stream of their device."""
        device = tensors[0].get_device()
        if device == self.current_device():
            self._enqueue(tensors, device)
            return
        with self._torch.cuda.device(device):
            self._enqueue(tensors, device)

    def _enqueue(self, tensors: tuple[Tensor, ...], device: int) -> None:
        addresses, base = list(map(_address, tensors)), 0
        if self.scratch:  # one allocation for all of it
            whole = tensors[0].new_empty(self.scratch, dtype=self._torch.float32)
            base = whole.data_ptr()
            if not self.by_address:
                tensors = (*tensors, *[whole[start:] for start in self._starts])
        self.at(addresses, base, self.stream_of(device), tensors)

    def at(
        self, addresses: list[int], scratch: int, stream: int, tensors: Sequence[Tensor] = ()
    ) -> None:
        """Enqueues them, on that stream of the current device, for what is at addresses.

        scratch: where `self.scratch` float32 numbers are. tensors: for calls that are not
        `by_address`.
        """
        addresses += [scratch + start for start in self._bytes]
        for call in self._calls:
            call.enqueue(addresses, tensors, stream)


def relaunch(
    made: Sequence[Made], tensors: Sequence[Tensor], scratch: Sequence[Tensor] = ()
) -> Relaunch | None:
    """Calls that were made for these tensors and scratch (contiguous float32), for others.

    None if they cannot be: where one was made for a copy of a tensor, or interpreted.
    """
    if any(one.compiled is None for one in made):
        return None
    given = (*tensors, *scratch)
    numbers = {id(x): number for number, x in enumerate(given)}
    used = (getattr(x, "base", x) for one in made for x in one.arguments)
    if any(is_tensor(x) and id(x) not in numbers for x in used):
        return None
    device = tensors[0].get_device()
    calls = repeatable(made, numbers, device)
    return Relaunch(calls, [tuple(x.shape) for x in scratch])


def signature(tensors: Sequence[Tensor]) -> Hashable:
    """All that a call depends on of its tensors: not the addresses, but their alignment.

    And which of them are one, for arguments are told apart by identity.
    """
    looks = [(x.shape, x.stride(), x.dtype) for x in tensors]
    return tensors[0].get_device(), placement(tensors), *looks


def placement(tensors: Sequence[Tensor]) -> Hashable:
    """What of a `signature` does not follow from shapes, strides, dtypes and devices."""
    ids = list(map(id, tensors))
    same = None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))
    return same, *[address % 16 for address in map(_address, tensors)]


class Kept(dict[Hashable, Relaunch | None]):
    """Launches by their keys; None for a key that something else is to serve."""

    def __setitem__(self, key: Hashable, relaunch: Relaunch | None) -> None:
        if len(self) >= KEPT:
            self.clear()
        super().__setitem__(key, relaunch)
