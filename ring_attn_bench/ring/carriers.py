"""What carries a group's messages: which backend for which devices, and how long it waits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# torch 2.13's name, and that which older ones have
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_host() -> str:
    """This host, by the number of its last boot; nothing where there is none."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def backend_of_device_types(group: dist.ProcessGroup) -> dict[str, str]:
    """By device type what carries its tensors: {"cpu": "gloo", "cuda": "nccl"}."""
    pairs = (pair.split(":") for pair in dist.get_backend_config(group).split(","))
    return {kind: name for kind, name in pairs}  # noqa: C416 - dict() wants pairs, not lists


def is_timeout(value: object) -> bool:
    """Whether backends can count it, in nanoseconds of 64 bits."""
    return isinstance(value, timedelta) and timedelta(0) < value <= timedelta(days=36525)


def timeout_of(group: dist.ProcessGroup) -> timedelta | None:
    """After which the group's unanswered messages are errors; None if its backend does not say.

    Where devices have backends of their own, a GPU's counts: it is keys that are waited for.
    """
    for kind in sorted(backend_of_device_types(group), key=lambda kind: kind == "cpu"):
        try:  # torch has no call that asks
            timeout: timedelta = group._get_backend(torch.device(kind)).options._timeout
        except (AttributeError, RuntimeError):  # a backend of somebody else's, without options
            continue
        return timeout
    return None


def shakes_hands(backends: dict[str, str], device: torch.device) -> bool:
    """Whether ranks compare calls with tensors of that device first, where nobody says: on gloo.

    On NCCL that would stall the queue. backends: by device type, as `backend_of_device_types`.
    """
    # a device that the group cannot carry is this rank's mistake; the others may wait for it
    return {backends.get(device.type, name) for name in backends.values()} == {"gloo"}


def message_device(group: dist.ProcessGroup) -> torch.device:
    """Where a few numbers for all ranks must be: on the CPU, if the group carries that."""
    if "cpu" in backend_of_device_types(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
