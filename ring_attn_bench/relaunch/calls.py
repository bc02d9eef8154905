"""One call of a compiled kernel, to be made again: by CUDA's driver, or by Triton's launcher."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.relaunch.driver import INVALID_CONTEXT, LaunchConfig, LaunchDriver, driver
from ring_attn_bench.relaunch.parameters import PackedParameters, pack

if TYPE_CHECKING:
    from torch import Tensor

WARP = 32
Parameters = tuple[int, int, int, None]
"""Of cuLaunchKernelEx: where the configuration is, the function, where its parameters are."""


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
    """Calls of kernels that follow one another, to be made with other addresses."""

    def enqueue(self, addresses: list[int], tensors: Sequence[Tensor], stream: int) -> None:
        """On the stream, of the current device; addresses: those of the tensors."""
        ...


class DriverCall:
    """A call with its parameters packed, for the driver. One thread a time: they are its own."""

    def __init__(self, made: Made, packed: PackedParameters) -> None:
        self._kernel = kernel = made.compiled  # whoever drops it may unload it
        self._packed = packed
        self.fill = packed.fill
        threads = kernel.metadata.num_warps * WARP
        self.config = LaunchConfig(*made.grid, threads, 1, 1, kernel.metadata.shared)
        # integers, which ctypes takes in half of the time of references
        self.given = (
            addressof(self.config), kernel.function, addressof(packed.parameters), None
        )  # fmt: skip


class DriverCalls:
    """Calls for the driver, together: what is looked at for one is looked at for all."""

    def __init__(self, at: LaunchDriver, device: int, calls: Sequence[DriverCall]) -> None:
        self._driver, self._device, self._calls = at, device, calls
        self._launch, self._given = at.launch, [call.given for call in calls]
        self._lock = Lock()
        self._last: list[int] = []
        self._stream = 0

    def enqueue(self, addresses: list[int], tensors: Sequence[Tensor], stream: int) -> None:
        """Fills in what is not as it was the last time."""
        with self._lock:
            if addresses != self._last:
                self._last = []
                for call in self._calls:
                    call.fill(addresses, self._driver)
                self._last = addresses
            if stream != self._stream:
                for call in self._calls:
                    call.config.stream = stream
                self._stream = stream
            for given in self._given:
                if status := self._launch(*given):
                    self._launch_despite(status, given)

    def _launch_despite(self, status: int, given: Parameters) -> None:
        """Once more, where all that is missing is a context; else raises RuntimeError."""
        if status == INVALID_CONTEXT:
            self._driver.enter(self._device)
            status = self._launch(*given)
        self._driver.check(status, "cuLaunchKernelEx")


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


def repeatable(made: Sequence[Made], numbers: dict[int, int], device: int) -> list[Repeatable]:
    """All calls, in their order: by the driver, or if it cannot have one, all by Triton's launcher.

    numbers: the place of each tensor's address, and of its descriptors', by `id`.
    """
    at = driver()
    found = [None if at is None else _driver_call(at, one, numbers) for one in made]
    calls = [call for call in found if call is not None]
    if at is not None and len(calls) == len(made):
        return [DriverCalls(at, device, calls)]
    return [TritonCall(one, numbers) for one in made]


def _driver_call(at: LaunchDriver, made: Made, numbers: dict[int, int]) -> DriverCall | None:
    """None unless the kernel takes just what was packed."""
    about = getattr(made.compiled, "metadata", None)
    if about is None:
        return None
    plain = about.num_ctas == 1 and not about.launch_pdl and not about.launch_cooperative_grid
    if not plain or about.global_scratch_size or about.profile_scratch_size:
        return None
    packed = pack(made.compiled, made.arguments, numbers, at)
    if packed is None or at.parameter_sizes(made.compiled.function) != packed.sizes:
        return None
    return DriverCall(made, packed)


def _rebased(descriptor: Any, tensor: Tensor | None) -> Any:  # noqa: ANN401 - Triton ships no types
    """The descriptor for another tensor of the same shape, strides, dtype and alignment."""
    copy = object.__new__(type(descriptor))
    copy.__dict__ = {**descriptor.__dict__, "base": tensor}
    return copy


def is_tensor(x: object) -> bool:
    """Whether it is a tensor, and no descriptor of one."""
    import torch

    return isinstance(x, torch.Tensor)
