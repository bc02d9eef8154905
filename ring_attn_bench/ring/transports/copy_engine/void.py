"""What makes the results of a pass that was given up tell so: NaN where its keys come from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_PAGE = 4 << 20


class Void:
    """Bytes that are NaN in every dtype, ready beforehand.

    Copy engines bring them: a kernel would wait for multiprocessors that kernels which wait for
    keys may hold, and memory that a copy engine can read is not made while they do.
    """

    def __init__(self) -> None:
        self._page = torch.full((_PAGE,), 0xFF, dtype=torch.uint8, pin_memory=True, device="cpu")

    def over(self, memories: Iterable[Tensor]) -> None:
        """Enqueues it on the current stream, over all of them; (bytes,) each, uint8."""
        for memory in memories:
            for part in memory.split(_PAGE):
                part.copy_(self._page[: len(part)], non_blocking=True)
