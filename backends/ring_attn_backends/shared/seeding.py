"""Dropout without a state: what a call drops follows from its seed, wherever and whenever it runs.

A ring calls a kernel many times in a pass, in another order backwards, and one block's backward
may run where its forward did not. So no generator is carried along: each call's seed is a hash
of the score's seed and of what the call computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived(seed: int, *parts: object) -> int:
    """A seed from 0 to 2**63 - 1, a function of the arguments' text alone, on every machine.

    parts: frozen values whose text is all that they are, as spans and integers are.
    """
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """The generator that kernels of the device draw from begins at `seed`; then it is put back."""
    generator = _default_generator(device)
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def philox_state(seed: int, device: torch.device) -> Tensor:
    """int64 (2,): the seed and the offset at which a kernel begins that draws from that seed."""
    state = torch.zeros(2, dtype=torch.int64, device=device)
    state[:1].fill_(seed)  # a kernel does it: a copy from the host would wait for the queue
    return state


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]
