"""The whole probe: which cells, who asks, and the matrix on disk at every moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ring_attn_bench import registry
from ring_attn_bench.conformance.features import FEATURES, select
from ring_attn_bench.errors import Interrupted, InvalidArgument, Terminated
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.probe.asker import Asker, Terms
from ring_attn_bench.probe.tasks import Task, Tasks
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.finding import Finding, read, write
from ring_attn_bench.records.folder import folder_for
from ring_attn_bench.records.lock import alone_in
from ring_attn_bench.records.values import Environment
from ring_attn_bench.text.digits import plural
from ring_attn_bench.workers.keeper import Keeper, Watcher
from ring_attn_bench.workers.pool import run_all

MOST_JOBS = 8
"""By default: each process has a context of its own on the GPU, half a gigabyte."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What a person asked for. None means: by the machine."""

    backends: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    out: Path | None = None
    jobs: int | None = None
    seconds: float = 300.0
    """For a feature in one direction: most of it goes into compiling kernels."""
    quick: bool = False
    """Whether each feature's first case will do."""
    resume: bool = False
    """Whether what the folder's coverage.csv holds already need not be found again."""


def probe(request: ProbeRequest, watcher: Watcher[Task, Finding]) -> Path:
    """Asks, and returns the folder with coverage.csv; this process never touches CUDA.

    Raises Interrupted where a person ends it.
    """
    for name in request.backends:
        registry.check_backend(name)
    backends = tuple(dict.fromkeys(request.backends or registry.backends()))
    wanted = _cells(backends, [feature.name for feature in select(request.features)])
    environment = plug_ins.ask().environment
    folder = folder_for(request.out, "coverage", environment)
    with alone_in(folder):
        _find(wanted, folder, request, environment, watcher)
    return folder


def _find(
    wanted: Sequence[Task],
    folder: Path,
    request: ProbeRequest,
    environment: Environment,
    watcher: Watcher[Task, Finding],
) -> None:
    terms = _terms(request, environment)
    order = _cells(registry.backends(), FEATURES)
    keeper = kept(folder / "coverage.csv", order, watcher, terms.device_name, terms.torch)
    cells = [cell for cell in wanted if not request.resume or keeper.lacks(cell.key)]
    features, backends = ({getattr(x, name) for x in wanted} for name in ("feature", "backend"))
    jobs = request.jobs or min(MOST_JOBS, os.cpu_count() or 1)
    watcher.heading(
        [
            f"{plural(len(cells), 'finding')} to make of {plural(len(features), 'feature')} and "
            f"{plural(len(backends), 'backend')}, by {jobs} processes; "
            f"{terms.device_name}, torch {terms.torch}"
        ],
        len(cells),
    )
    try:
        _ask_all(cells, jobs, terms, keeper)
    except (KeyboardInterrupt, Terminated) as ended:
        raise Interrupted(folder, len(keeper.rows), "findings", ended) from None


def _cells(backends: Iterable[str], features: Iterable[str]) -> list[Task]:
    """The matrix's cells, in its order."""
    directions = (Direction.FORWARD, Direction.BACKWARD)
    return [Task(*cell) for cell in product(backends, features, directions)]


def _ask_all(cells: Sequence[Task], jobs: int, terms: Terms, keeper: Keeper[Task, Finding]) -> None:
    tasks = Tasks(cells)
    askers = [Asker(terms, tasks, keeper.done, keeper.doing) for _ in range(min(jobs, len(cells)))]
    try:
        run_all([asker.run for asker in askers], keeper.check)
    finally:
        keeper.end()
        tasks.drop()
        for asker in askers:
            asker.hand.end()
    if any(keeper.lacks(cell.key) for cell in cells):
        raise RuntimeError("findings are missing: a thread that asked has failed, see above")


def kept(
    path: Path, order: Iterable[Task], watcher: Watcher[Task, Finding], device: str, torch: str
) -> Keeper[Task, Finding]:
    """Who keeps a matrix. What the file holds already stays, but for what is found anew.

    So it may be put together from several runs, on one device and with one torch; raises
    InvalidArgument if it was found elsewhere.
    """
    keys = (task.key for task in order)
    keeper = Keeper[Task, Finding](path, keys, lambda finding: finding.key, write, watcher)
    old = read(path) if path.exists() else ()
    for finding in old:
        if (finding.device, finding.torch) != (device, torch):
            raise InvalidArgument(
                f"{path} was found on {finding.device}, torch {finding.torch}, and this is "
                f"{device}, torch {torch}; name another folder with --out."
            )
    keeper.keep_old(old)
    return keeper


def _terms(request: ProbeRequest, environment: Environment) -> Terms:
    gpu = environment.get("gpu")
    return Terms(
        device="cuda" if gpu else "cpu",
        seconds=request.seconds,
        quick=request.quick,
        device_name=str(gpu or environment.get("cpu")),
        torch=str(environment["torch"]),
    )


def missing(findings: Sequence[Finding], backends: Sequence[str]) -> list[str]:
    """Of the backends asked for by name, those that cannot run here, with their reasons."""
    first = {finding.backend: finding for finding in reversed(findings)}
    return [
        f"backend {name!r} is {first[name].reason}"
        for name in dict.fromkeys(backends)
        if first[name].reason.startswith("unavailable: ")
    ]
