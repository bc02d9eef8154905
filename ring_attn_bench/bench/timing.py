"""Times calls on one rank: one pair of device events, or of clock readings, around each call."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ring_attn_bench.bench.place import WorkerPlace

Call = Callable[[], object]


class Timer:
    """Times calls that start together on all ranks, from a cold L2 cache."""

    def __init__(self, place: WorkerPlace) -> None:
        self._place = place
        self._flush: torch.Tensor | None = None
        if place.device.type == "cuda":
            # twice the cache (60 MB on an H200), or a call would find the last one's K and V there
            size = 2 * torch.cuda.get_device_properties(place.device).L2_cache_size
            self._flush = torch.empty(size, dtype=torch.uint8, device=place.device)

    def sample(
        self, call: Call, count: int, warmup: int, meanwhile: Call = lambda: None
    ) -> list[float]:
        """Milliseconds of each of `count` calls, after `warmup` that are not timed.

        meanwhile: what the host does once all calls are enqueued, while the GPU is at them.

        On a GPU nothing waits between the calls: the host runs ahead as it does in training, and
        a call that is bound by its launches shows as such.
        """
        for _ in range(warmup):
            self._place.line_up()
            call()
        if self._place.device.type == "cuda":
            return self._device_times(call, count, meanwhile)
        return [self._host_time(call) for _ in range(count)]

    def _device_times(self, call: Call, count: int, meanwhile: Call) -> list[float]:
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(count)
        ]
        for start, end in pairs:
            if self._flush is not None:
                self._flush.zero_()
            self._place.line_up()
            start.record()
            call()
            end.record()
        meanwhile()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def _host_time(self, call: Call) -> float:
        self._place.line_up()
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
