"""Launches that were made before: everything but the addresses is kept, and nothing checked again.

Choosing a configuration, making descriptors and Triton's own look at some thirty arguments take the
host longer than a short kernel takes the GPU. All of it follows from shapes, strides, dtypes, the
block and a few numbers, which are the key here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ring_attn_backends.triton.hopper import descriptors

if TYPE_CHECKING:
    from ring_attn_backends.triton.hopper.launch import HopperLaunch

KEPT = 4096
"""Launches that are kept at most: then all are forgotten. A ring has some, new lengths are new."""


@dataclass(frozen=True, slots=True)
class _Call:
    """A compiled kernel's arguments, and which of them are a tensor's address or descriptor."""

    enqueue: Callable[..., None]
    arguments: list[Any]
    addresses: tuple[tuple[int, int], ...]
    descriptors: tuple[tuple[int, int, Any], ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The calls of a launch, and the shapes of what they need between them (float32)."""

    calls: tuple[_Call, ...]
    scratch: tuple[tuple[int, ...], ...]

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Enqueues them for other tensors, on the current stream of their device."""
        device = tensors[0].device
        if tensors[0].get_device() == torch.cuda.current_device():
            self._enqueue(tensors, device)
            return
        with torch.cuda.device(device):
            self._enqueue(tensors, device)

    def _enqueue(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        made = [torch.empty(x, dtype=torch.float32, device=device) for x in self.scratch]
        tensors = (*tensors, *made)
        for call in self.calls:
            arguments = call.arguments.copy()
            for at, number in call.addresses:
                arguments[at] = tensors[number].data_ptr()
            for at, number, like in call.descriptors:
                arguments[at] = descriptors.again(like, tensors[number])
            call.enqueue(*arguments)


_known: dict[Hashable, Prepared | None] = {}


def known(key: Hashable) -> Prepared | None:
    """The launch of that key; None if plain kernels serve it. Raises KeyError if it is new."""
    return _known[key]


def remember(key: Hashable, prepared: Prepared | None) -> None:
    """Keeps it."""
    if len(_known) >= KEPT:
        _known.clear()
    _known[key] = prepared


def signature(tensors: Sequence[Tensor]) -> Hashable:
    """All that a launch depends on of its tensors: not the addresses, but their alignment.

    And which of them are one, for arguments are told apart by identity.
    """
    ids = [id(x) for x in tensors]
    return (
        tensors[0].device,
        *map(ids.index, ids),
        *((x.shape, x.stride(), x.dtype, x.data_ptr() % 16 == 0) for x in tensors),
    )


def run_first(launch: HopperLaunch, tensors: Sequence[Tensor]) -> Prepared | None:
    """Runs a launch for the first time; None if it has to be made anew each time.

    That is where it works on a copy of one of the tensors.
    """
    kernels = launch.compiled()
    numbers = {id(x): number for number, x in enumerate((*tensors, *launch.scratch))}
    calls = []
    for part, kernel in zip((launch, *launch.after), kernels, strict=True):
        arguments = list(part.arguments.values())
        addresses, described = [], []
        for at, argument in enumerate(arguments):
            base = getattr(argument, "base", argument)
            if not isinstance(base, Tensor):
                continue
            if id(base) not in numbers:
                return None
            arguments[at] = None
            if base is argument:
                addresses.append((at, numbers[id(base)]))
            else:
                described.append((at, numbers[id(base)], descriptors.again(argument, None)))
        calls.append(_Call(kernel[part.grid], arguments, tuple(addresses), tuple(described)))
    return Prepared(tuple(calls), tuple(tuple(x.shape) for x in launch.scratch))
