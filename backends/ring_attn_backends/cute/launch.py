"""A call of the kernel, enqueued.

The compiler's own way takes the host 200 us to look at 34 arguments and pack each. They are numbers
of known widths, so here they are packed at once, and the compiled launch is handed where each lies.
For other tensors that look the same only the addresses are packed again (`kept.py`).
"""

from __future__ import annotations

import ctypes
from functools import cache
from operator import methodcaller
from struct import Struct
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.build import function
from ring_attn_backends.cute.signatures import SIGNATURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from ring_attn_backends.cute.table import Build, Kernel


_STREAM = Struct("Q")
_address = methodcaller("data_ptr")


class Launch:
    """A call that can be made again, for tensors whose shapes, strides and dtypes are the same."""

    def __init__(self, call: Call, folder: Path | None = None) -> None:
        kernel, device = call.build.kernel, call.tensors[0].device
        self._row = packed(call, 0)
        # as objects, which the compiler's launcher does not make of numbers in every call then
        self._places = [ctypes.c_void_p(place) for place in places(self._row, kernel)]
        self._addresses = Struct(f"{len(call.tensors)}Q")
        self._place_of_stream = _layout(kernel)[1][-1]
        self._lock = Lock()  # the row is one for all threads
        with torch.cuda.device(device):  # loading it goes through all devices
            self._executor = _executor(call.build, folder)

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Enqueues it on the current stream of the tensors' device."""
        device = tensors[0].get_device()
        if device == torch.cuda.current_device():
            self._enqueue(map(_address, tensors), device)
            return
        with torch.cuda.device(device):
            self._enqueue(map(_address, tensors), device)

    def _enqueue(self, addresses: Iterable[int], device: int) -> None:
        stream = torch.cuda.current_stream(device).cuda_stream
        with self._lock:
            self._addresses.pack_into(self._row, 0, *addresses)
            _STREAM.pack_into(self._row, self._place_of_stream, stream)
            self._executor.run_compiled_program(self._places)


def enqueue(call: Call, folder: Path | None = None) -> Launch | None:
    """Launches it on the current stream of the tensors' device; None where nothing was to do."""
    if call.is_empty:
        _nothing_seen(call)
        return None
    launch = Launch(call, folder)
    launch.run(call.tensors)
    return launch


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
    if call.build.kernel == "gathered.backward_adding":  # the other part has all tiles
        return
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
