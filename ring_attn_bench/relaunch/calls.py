"""One call of a compiled kernel, to be made again: by CUDA's driver, or by Triton's launcher."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.relaunch.driver import INVALID_CONTEXT, LaunchConfig, LaunchDriver, driver
from ring_attn_bench.relaunch.parameters import PackedParameters, pack

if TYPE_CHECKING:
    from torch import Tensor

WARP = 32


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made: the kernel as Triton compiled it, its grid, all of its arguments."""

    compiled: Any  # a triton.compiler.CompiledKernel
    grid: tuple[int, int, int]
    arguments: Sequence[Any]

    @property
    def used(self) -> UsedKernel | None:
        """What the compiler made of it; None where it was interpreted."""
        about = getattr(self.compiled, "metadata", None)
        if about is None:
            return None
        registers, spilled = self.compiled.n_regs, self.compiled.n_spills
        return UsedKernel(about.name, registers, spilled, about.shared, about.num_warps)


class Repeatable(Protocol):
    """One kernel's call, to be made with other addresses."""

    def enqueue(self, addresses: list[int], tensors: Sequence[Tensor], stream: int) -> None:
        """On the stream, of the current device; addresses: those of the tensors."""
        ...


class DriverCall:
    """A call with its parameters packed, for the driver."""

    def __init__(self, at: LaunchDriver, made: Made, device: int, packed: PackedParameters) -> None:
        self._driver, self._device, self._packed = at, device, packed
        self._kernel = kernel = made.compiled  # whoever drops it may unload it
        threads = kernel.metadata.num_warps * WARP
        self._config = LaunchConfig(*made.grid, threads, 1, 1, kernel.metadata.shared)
        self._given = (
            ctypes.byref(self._config), ctypes.c_void_p(kernel.function), packed.parameters, None
        )  # fmt: skip
        self._lock = Lock()  # configuration and parameters are this call's own: one thread a time
        self._last: list[int] = []
        self._stream = 0

    def enqueue(self, addresses: list[int], tensors: Sequence[Tensor], stream: int) -> None:
        """Fills in what is not as it was the last time."""
        at = self._driver
        with self._lock:
            if addresses != self._last:
                self._last = []
                self._packed.fill(addresses, at)
                self._last = addresses
            if stream != self._stream:
                self._config.stream = self._stream = stream
            status = at.launch(*self._given)
            if status == INVALID_CONTEXT:
                at.enter(self._device)
                status = at.launch(*self._given)
        if status:
            at.check(status, "cuLaunchKernelEx")


class TritonCall:
    """A call for Triton's own launcher, where the driver has no way to check ours."""

    def __init__(self, made: Made, numbers: dict[int, int]) -> None:
        self._enqueue = made.compiled[made.grid]
        self._arguments = list(made.arguments)
        self._places: list[tuple[int, int, Any]] = []
        for at, argument in enumerate(self._arguments):
            base = getattr(argument, "base", argument)
            if is_tensor(base):
                described = None if base is argument else _rebased(argument, None)
                self._places.append((at, numbers[id(base)], described))
                self._arguments[at] = None

    def enqueue(self, addresses: list[int], tensors: Sequence[Tensor], stream: int) -> None:
        """Descriptors are made without the checks that were made for the first."""
        arguments = self._arguments.copy()
        for at, number, like in self._places:
            arguments[at] = addresses[number] if like is None else _rebased(like, tensors[number])
        self._enqueue(*arguments, stream=stream)


def driver_call(made: Made, numbers: dict[int, int], device: int) -> DriverCall | None:
    """The call for the driver, or None unless the kernel takes just what was packed."""
    at, about = driver(), getattr(made.compiled, "metadata", None)
    if at is None or about is None:
        return None
    plain = about.num_ctas == 1 and not about.launch_pdl and not about.launch_cooperative_grid
    if not plain or about.global_scratch_size or about.profile_scratch_size:
        return None
    packed = pack(made.compiled, made.arguments, numbers, at)
    if packed is None or at.parameter_sizes(made.compiled.function) != packed.sizes:
        return None
    return DriverCall(at, made, device, packed)


def _rebased(descriptor: Any, tensor: Tensor | None) -> Any:  # noqa: ANN401 - Triton ships no types
    """The descriptor for another tensor of the same shape, strides, dtype and alignment."""
    copy = object.__new__(type(descriptor))
    copy.__dict__ = {**descriptor.__dict__, "base": tensor}
    return copy


def is_tensor(x: object) -> bool:
    """Whether it is a tensor, and no descriptor of one."""
    import torch

    return isinstance(x, torch.Tensor)
