"""The parameters of a compiled Triton kernel as they lie in memory for a launch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ring_attn_bench.relaunch.driver import TENSOR_MAP_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ring_attn_bench.relaunch.driver import LaunchDriver

_SCALARS = {
    "i1": ctypes.c_int8, "i8": ctypes.c_int8, "i16": ctypes.c_int16, "i32": ctypes.c_int32,
    "i64": ctypes.c_int64, "u8": ctypes.c_uint8, "u16": ctypes.c_uint16, "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64, "fp32": ctypes.c_float, "fp64": ctypes.c_double,
}  # fmt: skip
"""Triton's names of types that a parameter may have."""
_MAP_DTYPES = {"float16": 6, "float32": 7, "bfloat16": 9}
"""CUtensorMapDataType by torch's name."""


class PackedParameters:
    """A kernel's parameters in memory, and which of them follow from a tensor's address."""

    def __init__(self) -> None:
        self.values: list[Any] = []  # ctypes numbers, and memory of tensor maps
        self.sizes: list[int] = []
        self._places: list[int] = []
        self._pointers: list[tuple[Any, int]] = []
        self._maps: list[tuple[int, int]] = []
        self._mapped: dict[int, int] = {}  # the address in each map that was filled in

    def fill(self, addresses: list[int], at: LaunchDriver) -> None:
        """Fills in the tensors' addresses."""
        for value, number in self._pointers:
            value.value = addresses[number]
        for place, number in self._maps:
            address = addresses[number]
            if self._mapped.get(place) == address:
                continue
            status = at.replace_address(place, address)
            if status:
                at.check(status, "cuTensorMapReplaceAddress")
            self._mapped[place] = address

    def seal(self) -> None:
        """Makes `parameters`, the array of pointers that a launch takes."""
        self.parameters = (ctypes.c_void_p * len(self._places))(*self._places)

    def add(self, value: Any) -> None:  # noqa: ANN401 - a ctypes number
        """Adds a parameter that stays as it is."""
        self._keep(value, ctypes.addressof(value), ctypes.sizeof(value))

    def add_pointer(self, number: int) -> None:
        """Adds the address of a tensor."""
        value = ctypes.c_void_p()
        self.add(value)
        self._pointers.append((value, number))

    def add_map(self, number: int) -> int:
        """Adds a tensor map of a tensor, to be encoded at the address that is returned."""
        memory = (ctypes.c_byte * (TENSOR_MAP_BYTES + 64))()
        place = -(-ctypes.addressof(memory) // 64) * 64
        self._keep(memory, place, TENSOR_MAP_BYTES)
        self._maps.append((place, number))
        return place

    def _keep(self, value: Any, place: int, size: int) -> None:  # noqa: ANN401
        self.values.append(value)
        self._places.append(place)
        self.sizes.append(size)


def pack(
    kernel: Any,  # noqa: ANN401 - Triton ships no types
    arguments: Sequence[Any],
    numbers: dict[int, int],
    at: LaunchDriver,
) -> PackedParameters | None:
    """The parameters in the order of Triton's launcher; None if one is of a kind unknown here.

    numbers: of the tensors among the arguments, and under their descriptors, by `id`.
    """
    packed = PackedParameters()
    maps = iter(getattr(kernel.metadata, "tensordesc_meta", None) or ())
    kinds = kernel.src.signature.values()
    for kind, argument in _flat(kinds, arguments):
        if kind.startswith("*"):
            if argument is None:
                packed.add(ctypes.c_void_p())
            else:
                packed.add_pointer(numbers[id(argument)])
        elif kind.startswith("tensordesc"):
            about = next(maps, None)
            if about is None or about["fp4_padded"]:
                return None
            _add_descriptor(packed, argument, about, numbers[id(argument.base)], at)
        elif kind in _SCALARS:
            packed.add(_SCALARS[kind](argument))
        else:
            return None
    for _ in range(2):  # global and profiling scratch, of which these kernels need none
        packed.add(ctypes.c_void_p())
    packed.seal()
    return packed


def _add_descriptor(
    packed: PackedParameters,
    descriptor: Any,  # noqa: ANN401
    about: dict[str, Any],
    number: int,
    at: LaunchDriver,
) -> None:
    """The tensor map, then shape and strides, which a kernel takes whether it reads them or not."""
    base, size = descriptor.base, about["elem_size"]
    at.encode(
        packed.add_map(number), _MAP_DTYPES[str(base.dtype).removeprefix("torch.")],
        base.data_ptr(), list(descriptor.shape), [size * x for x in descriptor.strides[:-1]],
        list(about["block_size"]), about["swizzle"],
    )  # fmt: skip
    for length in descriptor.shape:
        packed.add(ctypes.c_int32(length))
    for stride in descriptor.strides:
        packed.add(ctypes.c_int64(stride))


def _flat(kinds: Any, arguments: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Types and arguments one by one, tuples taken apart, without what was compiled in."""
    for kind, argument in zip(kinds, arguments, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(kind, argument)
        elif kind != "constexpr":
            yield kind, argument
