"""Scratch that a stream keeps: launches on it use it one after another, and none allocates its own.

A short step of decoding that is launched again takes a host no longer than a few allocations. A
stream's memory is told by its handle, as torch's allocator tells it; but it is not that
allocator's, whose pools are a graph's at times, and count what lives in them. While a graph is
captured there is none here: what is replayed must have memory of its own.
"""

from __future__ import annotations

from threading import Lock
from weakref import finalize

import torch

from ring_attn_bench.relaunch.driver import LaunchDriver, driver

NUMBERS = 2**21
"""Float32 numbers of a stream: 8 MiB. 33 partial results of eight queries of 32 heads of 128 are
half of it. A step that needs more allocates it, which costs its host 2 to 4 us of 26 to 29
(`scripts/decode_speed.py --tokens 1x8k --queries 8`, with 2^19 here and with more)."""
STREAMS = 64
"""That have some at most: then all give it back."""


class StreamScratch:
    """One stream's. lock: held while launches that follow one another are enqueued."""

    __slots__ = ("__weakref__", "address", "lock")

    def __init__(self, at: LaunchDriver, address: int) -> None:
        self.address = address
        self.lock = Lock()
        # when the program ends, CUDA may be gone first
        finalize(self, at.free, address).atexit = False


_of_streams: dict[tuple[int, int], StreamScratch] = {}


def of_stream(device: int, stream: int) -> StreamScratch | None:
    """The scratch of the current stream, of that handle and device.

    None where the stream is captured, or the driver gives none: a thread's first call, say.
    """
    if torch.cuda.is_current_stream_capturing():
        return None
    return _of_streams.get((device, stream)) or _made(device, stream)


def _made(device: int, stream: int) -> StreamScratch | None:
    at = driver()
    address = None if at is None else at.allocate(4 * NUMBERS)
    if at is None or address is None:
        return None
    if len(_of_streams) >= STREAMS:
        _of_streams.clear()
    made = _of_streams[device, stream] = StreamScratch(at, address)
    return made
