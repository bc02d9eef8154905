"""Kernels compiled once for each `table.Build`, and kept on disk as objects that are linked again.

A kept object's name tells everything that it depends on: this folder's sources, the compiler's
version, Python's and the build. It is compiled in a process of its own, because the compiler fails
now and then in one that has run for long (flash-attention#2716), and written whole or not at all.
Where nothing can be written (a folder that is read-only, a full disk, a user without a home) it is
compiled here, and what was kept before is still found. No GPU is needed before a launch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ring_attn_backends.cute.signatures import SIGNATURES, dtype_of
from ring_attn_backends.cute.table import Build, Config
from ring_attn_backends.shared import worklist
from ring_attn_bench.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

ARCHITECTURE = "sm_90a"
COMPILER = "nvidia-cutlass-dsl"
TESTED = "4.8."
"""Versions of the compiler that these kernels were compiled with: 4.9 has another by default."""
SYMBOL = "launch"
CANNOT_WRITE = 73
"""What the process that compiles ends with then, as sysexits.h has it (EX_CANTCREAT)."""
LONG = 1.0
"""Seconds after which somebody who waits for a compiler is told so."""
_log = logging.getLogger("ring_attn_bench")


def kept_in() -> Path:
    """Where objects are kept: the user's cache. Raises OSError for a user who has no home."""
    try:
        return Path.home() / ".cache" / "ring_attn_bench" / "cute"
    except RuntimeError as error:
        raise FileNotFoundError(f"nothing can be kept: {error}") from error


@cache
def function(build: Build, folder: Path | None = None) -> Any:  # noqa: ANN401 - the compiler's
    """A kernel's compiled launch, from disk if it is kept there."""
    begun, rest = time.perf_counter(), "`ring-attn-bench compile cute` does it ahead"
    try:
        (path,) = build_all([build], folder or kept_in())
    except OSError as error:  # nothing can be written there, or no process started
        rest = f"this process alone has it: {error}"
        launch = compiled(build)
    else:
        launch = loaded(path)
    took = time.perf_counter() - begun
    if took > LONG:
        _log.warning("backend 'cute' had %s ready after %.1f s; %s.", build, took, rest)
    return launch


def loaded(path: Path) -> Any:  # noqa: ANN401
    """The launch of a kept object."""
    from cutlass.cute.runtime import load_module

    return getattr(load_module(str(path)), SYMBOL)


def build_all(builds: Iterable[Build], folder: Path) -> list[Path]:
    """Where they are kept in the folder; those that are not yet are compiled, by one process."""
    paths = {build: folder / name_of(build) for build in builds}
    missing = {build: path for build, path in paths.items() if not path.is_file()}
    if missing:
        _compile_apart(missing, folder)
    return list(paths.values())


def name_of(build: Build) -> str:
    """A file name, of everything that what is compiled depends on."""
    about = [_sources(), version(COMPILER), sys.version_info[:2], ARCHITECTURE, asdict(build)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32] + ".o"


def compiled(build: Build, options: str = "") -> Any:  # noqa: ANN401
    """The launch, compiled by this process for sm_90a, whatever GPU there is."""
    import cutlass
    from cuda.bindings import driver
    from cutlass import cute

    signature = SIGNATURES[build.kernel]
    # each has a module of its own, in which the launch has the same name
    module = import_module(f"{__package__}.{build.source}")
    launch = getattr(module, build.source.rpartition(".")[2])
    strides = [tuple(map(cutlass.Int64, (0,) * n)) for n in signature.strides if n]
    counts = [tuple(map(cutlass.Int32, (0,) * n)) for n in signature.integers]
    factors = [cutlass.Float32(0.0)] * signature.factors
    none = (0,) * len(signature.tensors)
    return cute.compile(
        launch, *pointers(build, none), *strides, *counts, *factors, driver.CUstream(0), build,
        options=f"--gpu-arch {ARCHITECTURE} {options}".strip(),
    )  # fmt: skip


def pointers(build: Build, addresses: tuple[int, ...]) -> list[Any]:
    """Of its signature's tensors, as a launch takes them."""
    import cutlass
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    types = {
        "float16": cutlass.Float16, "bfloat16": cutlass.BFloat16, "float32": cutlass.Float32,
        "int32": cutlass.Int32,
    }  # fmt: skip
    return [
        make_ptr(
            types[dtype_of(kind, build)], address, AddressSpace.gmem,
            assumed_align=4 if kind in ("line", "table") else 16,
        )
        for kind, address in zip(SIGNATURES[build.kernel].tensors, addresses, strict=True)
    ]  # fmt: skip


def _compile_apart(missing: dict[Build, Path], folder: Path) -> None:
    """By a process of its own, which leaves the objects at the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only")
    code = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    code += f"from {__name__} import keep_all; keep_all(sys.argv[2])"
    about = [(asdict(build), str(path)) for build, path in missing.items()]
    # without a GPU the compiler asks its environment which one is meant
    command = ["env", f"CUTE_DSL_ARCH={ARCHITECTURE}", sys.executable, "-c", code]
    done = subprocess.run(
        [*command, json.dumps(sys.path), json.dumps(about)], capture_output=True, text=True
    )
    if done.returncode == CANNOT_WRITE:
        raise OSError(f"nothing can be written to {folder}: {done.stderr.strip()}")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout or "it said nothing").split()[-60:])
        names = ", ".join(map(str, missing))
        reason = f"{COMPILER} {version(COMPILER)} ended with {done.returncode} on {names}: {said}"
        raise BackendUnavailable("cute", reason)


def keep_all(about: str) -> None:
    """What the process does: compiles builds that are told in JSON, and writes each to its path."""
    for told, path in json.loads(about):
        launch = compiled(Build(**told | {"config": Config(**told["config"])}))
        try:
            _keep(launch, Path(path))
        except OSError as error:
            print(error, file=sys.stderr)
            sys.exit(CANNOT_WRITE)


def _keep(launch: Any, path: Path) -> None:  # noqa: ANN401
    """Writes the object beside the path, then moves it there: it is read whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        launch.export_to_c(folder, "kernel", SYMBOL)
        (Path(folder) / "kernel.o").replace(path)


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    # the columns of tables are compiled in
    for path in (*sorted(Path(__file__).parent.rglob("*.py")), Path(worklist.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
