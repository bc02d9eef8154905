"""Streams that nobody else is given.

`torch.cuda.Stream()` is one of 32 that go around: in a program that asks for many, copies would
wait behind somebody's kernels, and what ends a wait behind the wait itself.
"""

from __future__ import annotations

from weakref import finalize

import torch

from ring_attn_bench.ring.transports.copy_engine.memory_operations import MemoryDriver


def own_stream(at: MemoryDriver, device: torch.device, priority: int = 0) -> torch.cuda.Stream:
    """A stream of this device, which must be the current one and have been used by this thread; it
    ends with the object."""
    made = at.make_stream(priority)
    stream = torch.cuda.ExternalStream(made, device)
    # when the program ends, CUDA may be gone first
    finalize(stream, at.end_stream, made).atexit = False
    return stream
