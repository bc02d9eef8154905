"""What a call was expected to take of a device, before it was made."""

from __future__ import annotations

from ring_attn_bench.records.values import Count, Frozen


class PredictedMemory(Frozen):
    """Bytes of a call beyond its inputs by its plan (`plan/memory.py`), for each rank.

    What the ring takes of torch's allocator: results, keys that leave and land, accumulators,
    partial gradients on their way, and what a launch returns. Not the communicator's buffers, nor
    memory that peers reach, which stays between calls.
    """

    call_bytes: list[Count]
    with_kernel: bool = False
    """Whether it has what the kernel takes for itself too: of one that says what that is."""
