"""Scratch that a stream keeps: launches on it use it one after another, and none allocates its own.

An allocation takes a host 5 us, a sixth of a step of decoding that is launched again. A stream's
memory is told by its handle, as the allocator tells it. While a graph is captured there is none
here: what is replayed must have memory of its own.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

NUMBERS = 2**19
"""Float32 numbers of a stream: 2 MiB. 33 partial results of 32 heads of 128 are a fourth of it."""
COUNTERS = 4096
"""Integers of a stream that are 0, and that launches leave so."""
STREAMS = 64
"""That have some at most: then all give it back."""


class StreamScratch:
    """One stream's. lock: held while launches that follow one another are enqueued."""

    __slots__ = ("_memory", "address", "counters", "counters_at", "lock")

    def __init__(self, device: int) -> None:
        place = torch.device("cuda", device)
        self._memory = torch.empty(NUMBERS, dtype=torch.float32, device=place)
        self.address = self._memory.data_ptr()
        self.counters = torch.zeros(COUNTERS, dtype=torch.int32, device=place)
        self.counters_at = self.counters.data_ptr()
        self.lock = Lock()


_of_streams: dict[tuple[int, int], StreamScratch] = {}


def of_stream(device: int, stream: int) -> StreamScratch | None:
    """The scratch of the current stream, of that handle and device; None where it is captured."""
    if torch.cuda.is_current_stream_capturing():
        return None
    found = _of_streams.get((device, stream))
    if found is None:
        if len(_of_streams) >= STREAMS:
            _of_streams.clear()
        found = _of_streams[device, stream] = StreamScratch(device)
    return found


def counters_for(q: Tensor) -> Tensor:
    """COUNTERS integers that are 0 when a launch on q's device and current stream begins."""
    kept = None
    if q.is_cuda:
        stream = torch.cuda.current_stream(q.device)
        kept = of_stream(q.get_device(), stream.cuda_stream)
    return q.new_zeros(COUNTERS, dtype=torch.int32) if kept is None else kept.counters
