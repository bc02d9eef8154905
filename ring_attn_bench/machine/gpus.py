"""What a GPU says of itself by NVML: clocks, power, heat, what holds it back, who else is on it.

NVML asks the driver and starts nothing on the GPU. It is found by `nvidia-ml-py`, which may be
missing; a part of a GPU (MIG), a driver or a container may answer some questions or none.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import clause
from ring_attn_bench.records.gpus import REASONS, GpuLook
from ring_attn_bench.records.values import Environment

_EVENTS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
"""The same question by its name since driver 535, and before."""


class Unseen(Exception):
    """NVML says nothing of a GPU; the text is why."""


@dataclass(frozen=True)
class SeenGpu:
    """One GPU. nvml: the module `pynvml`, which has begun. handle: the GPU's there."""

    nvml: Any
    handle: Any

    @classmethod
    def of(cls, uuid: str, nvml: Any = None) -> SeenGpu:  # noqa: ANN401 - it ships no types
        """The GPU of torch's `uuid`; raises Unseen."""
        nvml = nvml or _pynvml()
        try:
            nvml.nvmlInit()
            return cls(nvml, _handle(nvml, uuid))
        except nvml.NVMLError as error:
            raise Unseen(f"NVML does not answer: {clause(error)}") from None

    def look(self, root: int) -> GpuLook:
        """Now; None is what it does not say. root: the process whose children are this run's."""
        nvml = self.nvml
        milliwatts = self._asked("nvmlDeviceGetPowerUsage")
        pids = self._asked("nvmlDeviceGetComputeRunningProcesses")
        strangers = None
        if pids is not None:
            strangers = others((process.pid for process in pids), root, os.getpid())
        return GpuLook(
            sm_mhz=self._asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_mhz=self._asked("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            watts=None if milliwatts is None else round(milliwatts / 1e3, 1),
            celsius=self._asked("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            held_back=self._held_back(),
            others=strangers,
        )

    def limits(self) -> Environment:
        """The GPU's highest SM clock in MHz, and its power limit in watts."""
        milliwatts = self._asked("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "gpu_most_sm_mhz": self._asked("nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM),
            "gpu_most_watts": None if milliwatts is None else milliwatts / 1e3,
        }

    def _held_back(self) -> tuple[str, ...]:
        bits = next((x for name in _EVENTS if (x := self._asked(name)) is not None), 0)
        return tuple(reason.name for reason in sorted(REASONS) if bits & reason.bit)

    def _asked(self, question: str, *about: Any) -> Any:  # noqa: ANN401 - it ships no types
        """The answer; None where this GPU, driver or module has none."""
        ask = getattr(self.nvml, question, None)
        if ask is None:
            return None
        try:
            return ask(self.handle, *about)
        except self.nvml.NVMLError:
            return None


def limits(uuid: str, nvml: Any = None) -> Environment:  # noqa: ANN401 - it ships no types
    """Facts for the environment: the GPU's highest clock, and the power that it may take."""
    try:
        return SeenGpu.of(uuid, nvml).limits()
    except Unseen:
        return {"gpu_most_sm_mhz": None, "gpu_most_watts": None}


def _pynvml() -> Any:  # noqa: ANN401 - it ships no types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older package of that name says that it is older
        try:
            return import_module("pynvml")
        except ImportError:
            raise Unseen(
                f"nvidia-ml-py is not installed; try: {COMMANDS['nvidia_ml_py']}"
            ) from None


def _handle(nvml: Any, uuid: str) -> Any:  # noqa: ANN401 - it ships no types
    """A whole GPU's or a part's: CUDA's number does not say which it is."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def others(
    pids: Iterable[int], root: int, me: int, parent: Callable[[int], int | None] | None = None
) -> int | None:
    """How many of the processes do not come from `root`.

    None if `me` is not among them: then the numbers are those of another container, or the driver
    tells no stranger's. parent: a process's parent; None where there is no such process.
    """
    there = set(pids)
    if me not in there:
        return None
    ask = parent or parent_of
    return sum(1 for pid in there - {me} if ask(pid) is not None and root not in _line(pid, ask))


def _line(pid: int, parent: Callable[[int], int | None]) -> Iterator[int]:
    """The process, its parent, and so on."""
    at: int | None = pid
    while at:
        yield at
        at = parent(at)


def parent_of(pid: int, processes: Path = Path("/proc")) -> int | None:
    """A process's parent as Linux tells it; None where there is no such process."""
    try:
        told = (processes / str(pid) / "stat").read_text()
    except (OSError, ValueError):
        return None
    # PID (NAME) STATE PARENT ..., and a name may hold anything
    return int(told.rpartition(")")[2].split()[1])
