"""What this machine is; run as a module it prints that, so that a parent need not touch CUDA."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.machine.gpus import limits
from ring_attn_bench.records.values import Environment
from ring_attn_bench.workers.process import importable

PACKAGES = (*COMMANDS, "nvidia_cutlass_dsl", "numpy")
"""Those that can be installed, and what they bring that results depend on."""


class NoAnswer(RuntimeError):
    """The process that was to find something out has failed."""


def probe() -> Environment:
    """The environment, found out by another process."""
    return cast(Environment, asked("ring_attn_bench.machine.environment"))


def asked(module: str, *arguments: str) -> Any:  # noqa: ANN401 - whatever it prints
    """What a module prints in its last line, as JSON, in a process of its own; raises NoAnswer."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | importable(),
        check=False,
    )
    if done.returncode:
        raise NoAnswer(f"cannot find out what this machine has: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])  # what is imported may print too


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
        **limits(str(properties.uuid)),
    }


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
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else None


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
    return {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()) + "\n")
