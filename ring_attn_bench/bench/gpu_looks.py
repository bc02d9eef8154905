"""A worker's looks at its own GPU, by NVML: between calls, or while the GPU is at them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

import torch

from ring_attn_bench.machine.gpus import SeenGpu, Unseen
from ring_attn_bench.records.gpus import GpuLook
from ring_attn_bench.workers.reply import Facts

Find = Callable[[str], SeenGpu]


class OwnGpu:
    """The GPU of this process, found at the first look.

    run: the process whose children are this run's; None is this process's parent, as torchrun is.
    """

    def __init__(
        self, device: torch.device, run: int | None = None, find: Find = SeenGpu.of
    ) -> None:
        self._device, self._find = device, find
        self._run = os.getppid() if run is None else run
        self._seen: SeenGpu | GpuLook | None = None

    def look(self) -> Facts | None:
        """A `GpuLook`, which says why it says nothing where it does; None on a CPU."""
        if self._device.type != "cuda":
            return None
        if self._seen is None:
            self._seen = self._found()
        seen = self._seen
        look = seen if isinstance(seen, GpuLook) else seen.look(self._run)
        return cast(Facts, look.model_dump(mode="json", exclude_defaults=True))

    def _found(self) -> SeenGpu | GpuLook:
        try:
            return self._find(str(torch.cuda.get_device_properties(self._device).uuid))
        except Unseen as reason:
            return GpuLook(unseen=str(reason))
