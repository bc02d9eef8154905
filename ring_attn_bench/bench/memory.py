"""How much of a device a contestant takes: what it keeps between calls, and what a call adds."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from ring_attn_bench.bench.cached.prepared import PreparedCache
from ring_attn_bench.bench.messages import Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import Prepared
from ring_attn_bench.bench.ring_contestant import new_context
from ring_attn_bench.bench.timing import Call
from ring_attn_bench.records.direction import Direction


def peak_extra_bytes(call: Call, place: WorkerPlace) -> int | None:
    """The most that a call holds of torch's allocator beyond what was held before it.

    Inputs were held before and do not count; results do, a forward's also while its backward runs.
    None on a CPU, whose allocator keeps no peak.
    """
    if place.device.type != "cuda":
        return None
    call()  # so that what is allocated once and kept does not count
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before


def kept_bytes(
    prepared: Prepared | PreparedCache, direction: Direction, free: Callable[[], int] | None = None
) -> int | None:
    """What a contestant leaves on the device after a call, its results freed; None on a CPU.

    Communicator and symmetric memory are not torch's allocator's, so this is how much less of the
    device is free than before the contestant was made: our ring and a peer's alike are made anew,
    over a communicator of their own that is closed at the end, so contestants that share one in
    this worker group are each charged with all of it. Kernels are not: this process has run the
    contestant before, so their code is loaded. A collective of the group's processes. What other
    programs take of the device in the meantime shows; worker groups work one at a time.

    free: how many bytes nobody has, if not CUDA says so.
    """
    place = prepared.place
    if free is None:
        if place.device.type != "cuda":
            return None
        free = _free
    _ = prepared.shards  # made before
    place.line_up()  # so is the harness's own communicator
    before = free()
    with new_context(prepared.request.contestant) as context:
        own = prepared.with_context(context)
        _call(own, direction)
        after = free()
        del own
    place.line_up()
    return max(0, before - after)


def _call(own: Prepared | PreparedCache, direction: Direction) -> None:
    """One call and, where it is only a backward, the forward before it; leaves no result."""
    call = own.call(
        Direction.FORWARD if direction is Direction.FORWARD else Direction.FORWARD_BACKWARD,
        Subject.RING,
    )
    assert call is not None  # every contestant has itself
    call()


def _free() -> int:
    """Bytes of the device that nobody has, with what torch's allocator has cached given back."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]
