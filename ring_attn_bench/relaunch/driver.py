"""What a kernel's call needs of CUDA's driver, by ctypes: nothing is loaded before the first call.

The functions are documented in NVIDIA's CUDA Driver API, chapters Execution Control, Tensor Map
Object Management and Memory Management.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache

TENSOR_MAP_BYTES = 128
"""Of a CUtensorMap, which must be aligned to 64."""
INVALID_CONTEXT = 201
"""The status of a call from a thread that has no context yet."""


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig: the grid, a program's threads, its bytes of shared memory, the stream."""

    _fields_ = (
        *((name, c_uint) for name in ("grid_x", "grid_y", "grid_z")),
        *((name, c_uint) for name in ("block_x", "block_y", "block_z")),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("attribute_count", c_uint),
    )


class LaunchDriver:
    """Functions of libcuda; each returns a status, 0 if all is well."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libcuda.so.1")
        self.launch = library.cuLaunchKernelEx
        # configuration, function, parameters, extra: fewer to convert than cuLaunchKernel's eleven
        self.launch.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p]
        self.replace_address = library.cuTensorMapReplaceAddress
        self.replace_address.argtypes = [c_void_p, c_void_p]
        self._encode = library.cuTensorMapEncodeTiled
        self._encode.argtypes = [
            c_void_p, c_int, c_uint32, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p,
            c_int, c_int, c_int, c_int,
        ]  # fmt: skip
        # of CUDA 12.4; where it is missing, AttributeError says so
        self._parameter = library.cuFuncGetParamInfo
        self._parameter.argtypes = [c_void_p, c_size_t, c_void_p, c_void_p]
        self._retain = library.cuDevicePrimaryCtxRetain
        self._retain.argtypes = [c_void_p, c_int]
        self._set_current = library.cuCtxSetCurrent
        self._set_current.argtypes = [c_void_p]
        self._allocate = library.cuMemAlloc_v2
        self._allocate.argtypes = [c_void_p, c_size_t]
        self._free = library.cuMemFree_v2
        self._free.argtypes = [c_uint64]
        self._error_name = library.cuGetErrorName
        self._error_name.argtypes = [c_int, c_void_p]

    def parameter_sizes(self, function: int) -> list[int]:
        """The bytes of each of a kernel's parameters."""
        sizes: list[int] = []
        offset, size = c_size_t(), c_size_t()
        while not self._parameter(function, len(sizes), ctypes.byref(offset), ctypes.byref(size)):
            sizes.append(size.value)
        return sizes

    def encode(
        self, tensor_map: int, dtype: int, address: int, shape: Sequence[int],
        strides: Sequence[int], box: Sequence[int], swizzle: int,
    ) -> None:  # fmt: skip
        """Writes a CUtensorMap: strides in bytes and without the last dim's, all outermost first.

        dtype: a CUtensorMapDataType; swizzle: a CUtensorMapSwizzle. What lies outside reads as 0.
        """
        rank = len(shape)
        sizes = (c_uint64 * rank)(*reversed(shape))
        steps = (c_uint64 * rank)(*reversed(strides), 0)
        tile, ones = (c_uint32 * rank)(*reversed(box)), (c_uint32 * rank)(*[1] * rank)
        promotion = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B
        status = self._encode(
            tensor_map, dtype, rank, address, sizes, steps, tile, ones, 0, swizzle, promotion, 0
        )
        self.check(status, "cuTensorMapEncodeTiled")

    def allocate(self, size: int) -> int | None:
        """The address of so many bytes of the current context.

        None where there is no memory, or no context: callers go on without.
        """
        address = c_uint64()
        if self._allocate(ctypes.byref(address), size):
            return None
        return address.value

    def free(self, address: int) -> None:
        """Gives memory back, when all that uses it is done; nothing where CUDA is gone."""
        self._free(address)

    def enter(self, device: int) -> None:
        """Makes the device's primary context this thread's, as the runtime's first call does."""
        context = c_void_p()
        self.check(self._retain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        self.check(self._set_current(context), "cuCtxSetCurrent")

    def check(self, status: int, what: str) -> None:
        """Raises RuntimeError if a call of that name did not succeed."""
        if status:
            name = ctypes.c_char_p()
            self._error_name(status, ctypes.byref(name))
            said = (name.value or b"an unknown error").decode()
            raise RuntimeError(f"{what} failed with {said} ({status}).")


@cache
def driver() -> LaunchDriver | None:
    """The driver, or None where there is none, or one older than CUDA 12.4."""
    try:
        return LaunchDriver()
    except (OSError, AttributeError):
        return None
