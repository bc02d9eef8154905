"""From a suite's name to finished records: in worker groups, or in place under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ring_attn_bench import registry, suites
from ring_attn_bench.bench import environment as env
from ring_attn_bench.bench.progress import Progress
from ring_attn_bench.bench.run import Run, Selection, execute, execute_on, folder_for
from ring_attn_bench.bench.setup import MachineLacks, Setup, setups
from ring_attn_bench.bench.suite import Entry, Suite, load
from ring_attn_bench.errors import BackendUnavailable, SuiteError


@dataclass(frozen=True)
class Request:
    """What a person asked for. None means: by the machine."""

    suite: str | None = None
    out: Path | None = None
    ranks: int | None = None
    backends: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    timing: bool = True


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def load_suite(request: Request, *, gpu: bool) -> tuple[Suite, str]:
    """The suite, and how to name it again: a file, or one that comes with the project."""
    argument = request.suite or ("hopper" if gpu else "cpu")
    path = Path(argument)
    if path.suffix != ".toml":
        path = suites.suite_path(argument)
    suite = load(path)
    if not request.timing:
        untimed = suite.timing.model_copy(update={"enabled": False})
        suite = suite.model_copy(update={"timing": untimed})
    return suite, argument


def select(suite: Suite, rings: tuple[Setup, ...], request: Request) -> tuple[Entry, ...]:
    """The entries to run; raises MachineLacks if a backend asked for by name cannot run here."""
    for name in request.backends:
        try:
            registry.load_contestant(name)
        except BackendUnavailable as error:
            raise MachineLacks(str(error)) from None
    entries = [e for ring in rings for e in suite.entries(ring.world_size, ring.played)]
    if request.backends:
        entries = [e for e in entries if e.contestant.backend in request.backends]
    chosen = request.selection.of(entries)
    if not chosen:
        raise SuiteError(
            f"nothing to run: of the {len(entries)} entries of suite {suite.name!r} none matches "
            f"case {request.selection.cases!r} and contestant {request.selection.contestants!r}."
        )
    return chosen


def isolated(request: Request, console: Console) -> Path:
    """Runs in worker groups; this process never touches CUDA. Returns the run's folder."""
    environment = env.probe()
    gpus = int(environment["gpu_count"] or 0)
    suite, argument = load_suite(request, gpu=gpus > 0)
    rings = setups(gpus, request.ranks or suite.world_size)
    entries = select(suite, rings, request)
    run = _run(request, suite, argument, environment)
    with Progress(console, _count(entries)) as progress:
        progress.note(_heading(suite, environment, rings, entries))
        execute(run, entries, rings, progress)
    return run.folder


def in_place(request: Request, console: Console) -> Path | None:
    """Runs in the processes that torchrun started. Returns the folder on process 0, else None."""
    from ring_attn_bench.bench.in_place import InPlaceGroup, follow
    from ring_attn_bench.bench.team import Team

    processes = int(os.environ["WORLD_SIZE"])
    world_size = request.ranks if processes == 1 and request.ranks else processes
    team = Team.join(world_size, lambda outcome: None)
    if team.place.process != 0:
        follow(team)
        return None
    group = InPlaceGroup(team)
    try:
        environment = env.describe()
        suite, argument = load_suite(request, gpu=bool(environment["gpu"]))
        ring = Setup(world_size, processes, "real" if processes == world_size else "loopback")
        entries = select(suite, (ring,), request)
        run = _run(request, suite, argument, environment)
        with Progress(console, _count(entries)) as progress:
            progress.note(_heading(suite, environment, (ring,), entries))
            progress.note("In place, under torchrun: not isolated, a crash ends the whole run.")
            execute_on(run, entries, lambda entry: group, progress)
    finally:
        group.close()
    return run.folder


def _run(request: Request, suite: Suite, argument: str, environment: env.Environment) -> Run:
    folder = folder_for(request.out, suite.name, environment)
    return Run(folder.name, suite, argument, environment, folder)


def _count(entries: tuple[Entry, ...]) -> int:
    return sum(len(entry.directions) for entry in entries)


def _heading(
    suite: Suite,
    environment: env.Environment,
    rings: tuple[Setup, ...],
    entries: tuple[Entry, ...],
) -> str:
    where = environment.get("gpu") or environment.get("cpu")
    return (
        f"suite {suite.name}: {_count(entries)} measurements on {'; '.join(map(str, rings))}; "
        f"{where}, torch {environment['torch']}"
    )
