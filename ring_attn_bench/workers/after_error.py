"""What an exception, and the device behind it, say of what was run."""

from __future__ import annotations

import torch

from ring_attn_bench.records.status import Status


def status_of(error: Exception) -> Status:
    """How it ended for who raised this."""
    return Status.OOM if _is_of_memory(error) else Status.ERROR


def _is_of_memory(error: Exception) -> bool:
    """torch's allocator on a CPU has no error of its own: it is told by its name."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)


def sentence(error: Exception) -> str:
    """An exception in one line."""
    text = str(error).strip() or "no message"
    kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
    return f"{kind}: {text.splitlines()[0][:300]}"


def device_works(device: str) -> bool:
    """Whether it still takes work: after an illegal access it never does."""
    if device != "cuda":
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # many processes share the device
    except Exception:
        return False
    return True
