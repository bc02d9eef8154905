"""What this machine is: found out by a process that may touch CUDA."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.machine.gpus import limits
from ring_attn_bench.records.values import Environment

PACKAGES = (*COMMANDS, "numpy")
"""Those that can be installed, and what they bring that results depend on."""


def describe() -> Environment:
    """The environment of this process; initialises CUDA."""
    import torch

    known: Environment = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.system(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": None,
        "gpu_count": torch.cuda.device_count(),
    }
    for package in PACKAGES:
        known[package] = _version(package)
    if torch.cuda.is_available():
        known |= _gpu()
    return known | _commit()


def _gpu() -> Environment:
    import torch

    properties = torch.cuda.get_device_properties(0)
    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "gpu_multiprocessors": properties.multi_processor_count,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, nccl)) if isinstance(nccl, tuple) else None,
        "driver": _driver(),
        "ptxas": _ptxas(),
        "gpu_cards": _cards(),
        **limits(str(properties.uuid)),
    }


def _cards() -> str:
    """Which GPUs these are, eight digits each: cards of one kind differ by some percent.

    Not their own numbers, which tell who has them.
    """
    import torch

    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return " ".join(sha256(str(gpu.uuid).encode()).hexdigest()[:8] for gpu in gpus)


def _ptxas() -> str | None:
    """The release of the assembler that Triton's kernels go through."""
    try:
        from triton import knobs

        return str(knobs.nvidia.ptxas.version)
    except (ImportError, AttributeError, RuntimeError):
        return None


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = _printed(query)
    return told.splitlines()[0].strip() if told else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> Environment:
    """The commit of the checkout that this package runs from, and whether files differ from it."""
    root = Path(__file__).parents[2]
    named = os.environ.get("RING_ATTN_BENCH_COMMIT")
    if named:  # files copied over another checkout, or without any, as their owner knows
        return {"commit": named, "dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    # results/ is what runs write: it says nothing about the code
    changes = _git(root, "status", "--porcelain", "--", ".", ":!results")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    return _printed(["git", "-C", str(root), *arguments])


def _printed(command: Sequence[str]) -> str | None:
    """By a program; None where it fails, or takes longer than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
