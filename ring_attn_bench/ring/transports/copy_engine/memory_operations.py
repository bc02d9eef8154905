"""Copies by copy engines, and words that streams write and wait for, by CUDA's driver.

None of them takes a multiprocessor, and none the host more than a call: the operations of a pass
are the same in every pass, so they are laid out in memory once. NVIDIA's CUDA Driver API, chapter
Stream Memory Operations, documents the functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache

_WAIT, _WRITE = 1, 2
"""CU_STREAM_MEM_OP_WAIT_VALUE_32 and CU_STREAM_MEM_OP_WRITE_VALUE_32."""
_AT_LEAST = 0
"""CU_STREAM_WAIT_VALUE_GEQ; in a write, its default: what came before is visible before it."""
_UNIFIED = 4
"""CU_MEMORYTYPE_UNIFIED: the driver finds out on which GPU an address is."""
_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the legacy default stream neither waits for it nor is waited for."""
MOST = 256
"""Operations in one batch, at most (the driver's limit)."""


class _Operation(ctypes.Structure):
    """CUstreamBatchMemOpParams, of 48 bytes."""

    _fields_ = (
        ("operation", c_uint),
        ("address", c_uint64),
        ("value", c_uint64),
        ("flags", c_uint),
        ("alias", c_uint64),
        ("padding", c_uint64),
    )


Operations = ctypes.Array[_Operation]
"""One after the other, as the driver takes them."""


class Rectangle(ctypes.Structure):
    """CUDA_MEMCPY2D: lines of so many bytes, `source_pitch` and `pitch` bytes apart."""

    _fields_ = (
        *((name, c_size_t) for name in ("source_x", "source_y")),
        ("source_kind", c_uint),
        ("source_host", c_void_p),
        ("source", c_uint64),
        ("source_array", c_void_p),
        ("source_pitch", c_size_t),
        *((name, c_size_t) for name in ("x", "y")),
        ("kind", c_uint),
        ("host", c_void_p),
        ("address", c_uint64),
        ("array", c_void_p),
        ("pitch", c_size_t),
        ("width", c_size_t),
        ("height", c_size_t),
    )


class MemoryDriver:
    """Functions of libcuda; each raises RuntimeError with its name where it does not succeed."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libcuda.so.1")
        self._batch = library.cuStreamBatchMemOp_v2
        self._batch.argtypes = [c_void_p, c_uint, c_void_p, c_uint]
        self._copy = library.cuMemcpyDtoDAsync_v2
        self._copy.argtypes = [c_uint64, c_uint64, c_size_t, c_void_p]
        self._copy_lines = library.cuMemcpy2DAsync_v2
        self._copy_lines.argtypes = [c_void_p, c_void_p]
        self._make_stream = library.cuStreamCreateWithPriority
        self._make_stream.argtypes = [c_void_p, c_uint, c_int]
        self._end_stream = library.cuStreamDestroy_v2
        self._end_stream.argtypes = [c_void_p]
        self._exchange = library.cuThreadExchangeStreamCaptureMode
        self._exchange.argtypes = [c_void_p]
        self._error_name = library.cuGetErrorName
        self._error_name.argtypes = [c_int, c_void_p]

    def batch(self, stream: int, operations: Operations) -> None:
        """Enqueues operations, one after the other."""
        status = self._batch(stream, len(operations), operations, 0)
        if status:
            self._check(status, "cuStreamBatchMemOp")

    def copy(self, stream: int, to: int, source: int, size: int) -> None:
        """Copies bytes; between two GPUs by a copy engine."""
        status = self._copy(to, source, size, stream)
        if status:
            self._check(status, "cuMemcpyDtoDAsync")

    def copy_rectangle(self, stream: int, whole: Rectangle) -> None:
        """Copies lines of bytes; between two GPUs by a copy engine."""
        status = self._copy_lines(ctypes.byref(whole), stream)
        if status:
            self._check(status, "cuMemcpy2DAsync")

    def make_stream(self, priority: int = 0) -> int:
        """A new stream of the current device, which waits for none; -1 goes before 0."""
        made = c_void_p()
        status = self._make_stream(ctypes.byref(made), _NON_BLOCKING, priority)
        self._check(status, "cuStreamCreateWithPriority")
        assert made.value is not None
        return made.value

    def end_stream(self, stream: int) -> None:
        """Ends it, when what it was given is done."""
        self._check(self._end_stream(stream), "cuStreamDestroy")

    def let_capture(self) -> None:
        """Lets this thread ask for events while another one captures a graph."""
        self._check(self._exchange(ctypes.byref(c_int(_RELAXED))), "cuThreadExchangeStreamCapture")

    def _check(self, status: int, what: str) -> None:
        if status:
            name = ctypes.c_char_p()
            self._error_name(status, ctypes.byref(name))
            said = (name.value or b"an unknown error").decode()
            raise RuntimeError(f"{what} failed with {said} ({status}).")


class LineCopy:
    """A copy of lines of `size` bytes to wherever it is told, everything else being constant.

    pitch, source_pitch: bytes from one line to the next.
    """

    def __init__(
        self, at: MemoryDriver, source: int, source_pitch: int, pitch: int, size: int, lines: int
    ) -> None:
        self._driver, self._source, self._size = at, source, size * lines
        self._whole: Rectangle | None = None
        if lines > 1 and not pitch == source_pitch == size:
            self._whole = Rectangle(
                source_kind=_UNIFIED, source=source, source_pitch=source_pitch,
                kind=_UNIFIED, pitch=pitch, width=size, height=lines,
            )  # fmt: skip

    def enqueue(self, stream: int, to: int) -> None:
        """On that stream; to: where the first line goes."""
        whole = self._whole
        if whole is None:
            self._driver.copy(stream, to, self._source, self._size)
            return
        whole.address = to
        self._driver.copy_rectangle(stream, whole)


@cache
def driver() -> MemoryDriver | None:
    """The driver, or None where there is none that can do this."""
    try:
        return MemoryDriver()
    except (OSError, AttributeError):
        return None


class Batch:
    """Waits for words to be 1, and writes to words, in this order; addresses are constant."""

    def __init__(self, at: MemoryDriver) -> None:
        self._driver = at
        self._listed: list[tuple[int, int, int]] = []

    def take(self, *addresses: int) -> Batch:
        """Waits until all of the words are 1, and then makes them 0."""
        self._listed += [(_WAIT, address, 1) for address in addresses]
        self._listed += [(_WRITE, address, 0) for address in addresses]
        return self

    def write(self, address: int, value: int = 1) -> Batch:
        """Writes a word, behind everything that the stream did before."""
        self._listed.append((_WRITE, address, value))
        return self

    def then(self, other: Batch) -> Batch:
        """This batch's operations and then the other's, as one batch."""
        both = Batch(self._driver)
        both._listed = self._listed + other._listed
        return both

    def laid_out(self) -> tuple[Operations, ...]:
        """As the driver takes it: one after the other, none where the batch is empty."""
        starts = range(0, len(self._listed), MOST)
        return tuple(_laid_out(self._listed[start : start + MOST]) for start in starts)

    def enqueue(self, stream: int) -> None:
        """On that stream; nothing where the batch is empty."""
        for part in self.laid_out():
            self._driver.batch(stream, part)


def _laid_out(operations: Sequence[tuple[int, int, int]]) -> Operations:
    laid_out = (_Operation * len(operations))()
    for at, (kind, address, value) in zip(laid_out, operations, strict=True):
        at.operation, at.address, at.value, at.flags = kind, address, value, _AT_LEAST
    return laid_out
