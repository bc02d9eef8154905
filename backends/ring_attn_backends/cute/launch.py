"""A call of the kernel, enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.build import function, pointers

if TYPE_CHECKING:
    from pathlib import Path


def enqueue(call: Call, folder: Path | None = None) -> None:
    """Launches it on the current stream of the tensors' device."""
    if call.is_empty:
        _nothing_seen(call)
        return
    device = call.tensors[0].device
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device).cuda_stream
        launch(call, stream, folder)


def launch(call: Call, stream: int, folder: Path | None = None) -> None:
    """With a stream's handle; the arguments in the order of `forward.forward`."""
    from cuda.bindings import driver
    from cutlass import Float32, Int32, Int64

    sizes, band, scale, cap = call.numbers
    function(call.build, folder)(
        *pointers(call.build, tuple(x.data_ptr() for x in call.tensors)),
        *(tuple(map(Int64, strides)) for strides in call.strides),
        tuple(map(Int32, sizes)), tuple(map(Int32, band)), Float32(scale), Float32(cap),
        driver.CUstream(stream),
    )  # fmt: skip


def _nothing_seen(call: Call) -> None:
    """Without keys: out 0 and lse -inf, or what they are already."""
    _, _, _, acc, out, lse = call.tensors
    if not call.build.carried:
        out.zero_()
        lse.fill_(-float("inf"))
    elif acc is not out:
        out.copy_(acc)
