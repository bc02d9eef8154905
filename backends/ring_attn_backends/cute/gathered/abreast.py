"""Two launches that the GPU works at together: programs of the second fill the end of the first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


def abreast(
    device: torch.device, first: Callable[[], None], between: Callable[[], None],
    second: Callable[[], None],
) -> None:  # fmt: skip
    """Enqueues `first` and `between` on the current stream, and `second` on another, beside them.

    The current stream then waits for both. What `second` reads must be there before `first`, and
    neither may read what the other writes; both may add to the same numbers.
    """
    if device.type != "cuda":  # the tests have tensors without memory
        first()
        between()
        second()
        return
    with torch.cuda.device(device):
        here, beside = torch.cuda.current_stream(), _stream(device)
        beside.wait_stream(here)
        first()
        with torch.cuda.stream(beside):
            second()
        between()
        here.wait_stream(beside)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
