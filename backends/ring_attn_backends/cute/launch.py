"""A call of the kernel, enqueued.

The compiler's own way takes the host 200 us to look at 34 arguments and pack each. They are numbers
of known widths, so here they are packed at once, and the compiled launch is handed where each lies.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.build import function
from ring_attn_backends.cute.signatures import SIGNATURES

if TYPE_CHECKING:
    from pathlib import Path
    from struct import Struct

    from ring_attn_backends.cute.table import Build, Kernel


def enqueue(call: Call, folder: Path | None = None) -> None:
    """Launches it on the current stream of the tensors' device."""
    if call.is_empty:
        _nothing_seen(call)
        return
    device = call.tensors[0].device
    with torch.cuda.device(device):
        arguments = packed(call, torch.cuda.current_stream(device).cuda_stream)
        _executor(call.build, folder).run_compiled_program(places(arguments, call.build.kernel))


def packed(call: Call, stream: int) -> ctypes.Array[ctypes.c_char]:
    """The arguments in a row; stream: its handle."""
    sizes, band, factors = call.numbers
    struct = _layout(call.build.kernel)[0]
    row = ctypes.create_string_buffer(struct.size)
    addresses = (x.data_ptr() for x in call.tensors)
    strides = (stride for each in call.strides for stride in each)
    struct.pack_into(row, 0, *addresses, *strides, *sizes, *band, *factors, stream)
    return row


def places(row: ctypes.Array[ctypes.c_char], kernel: Kernel) -> list[int]:
    """Where each of them lies."""
    begin = ctypes.addressof(row)
    return [begin + place for place in _layout(kernel)[1]]


@cache
def _layout(kernel: Kernel) -> tuple[Struct, tuple[int, ...]]:
    signature = SIGNATURES[kernel]
    return signature.packed, signature.places


@cache
def _executor(build: Build, folder: Path | None) -> Any:  # noqa: ANN401 - the compiler's
    """The compiled launch, its kernel loaded on the GPUs."""
    return function(build, folder).to(None)


def _nothing_seen(call: Call) -> None:
    """Without keys: out 0 and lse -inf, or what they are already; gradients of 0, or nothing."""
    if call.build.kernel != "forward":
        if not call.build.carried:
            for result in call.results:
                result.zero_()
        return
    _, _, _, acc, out, lse = call.tensors
    if not call.build.carried:
        out.zero_()
        lse.fill_(-float("inf"))
    elif acc is not out:
        out.copy_(acc)
