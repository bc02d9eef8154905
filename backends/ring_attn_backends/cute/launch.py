"""A call of the kernel, enqueued.

The compiler's own way takes the host 200 us to look at 34 arguments and pack each. They are numbers
of known widths, so here they are packed at once, and the compiled launch is handed where each lies.
"""

from __future__ import annotations

import ctypes
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import torch

from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.build import function

if TYPE_CHECKING:
    from pathlib import Path

    from ring_attn_backends.cute.table import Build

PACKED = Struct("6Q 17q 8i 2f Q")
"""Addresses, strides, sizes and band, factors, the stream: in the order of `forward.forward`."""
PLACES = (
    *range(0, 184, 8),  # addresses and strides
    *range(184, 224, 4),  # integers and factors
    224,
)


def enqueue(call: Call, folder: Path | None = None) -> None:
    """Launches it on the current stream of the tensors' device."""
    if call.is_empty:
        _nothing_seen(call)
        return
    device = call.tensors[0].device
    with torch.cuda.device(device):
        arguments = packed(call, torch.cuda.current_stream(device).cuda_stream)
        _executor(call.build, folder).run_compiled_program(places(arguments))


def packed(call: Call, stream: int) -> ctypes.Array[ctypes.c_char]:
    """The arguments in a row; stream: its handle."""
    sizes, band, scale, cap = call.numbers
    row = ctypes.create_string_buffer(PACKED.size)
    addresses = (x.data_ptr() for x in call.tensors)
    strides = (stride for each in call.strides for stride in each)
    PACKED.pack_into(row, 0, *addresses, *strides, *sizes, *band, scale, cap, stream)
    return row


def places(row: ctypes.Array[ctypes.c_char]) -> list[int]:
    """Where each of them lies."""
    begin = ctypes.addressof(row)
    return [begin + place for place in PLACES]


@cache
def _executor(build: Build, folder: Path | None) -> Any:  # noqa: ANN401 - the compiler's
    """The compiled launch, its kernel loaded on the GPUs."""
    return function(build, folder).to(None)


def _nothing_seen(call: Call) -> None:
    """Without keys: out 0 and lse -inf, or what they are already."""
    _, _, _, acc, out, lse = call.tensors
    if not call.build.carried:
        out.zero_()
        lse.fill_(-float("inf"))
    elif acc is not out:
        out.copy_(acc)
