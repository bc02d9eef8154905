"""From a suite's name to finished records: in worker groups, or in place under torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ring_attn_bench import registry
from ring_attn_bench.bench import forecast, suite_files
from ring_attn_bench.bench.overrule import load_with
from ring_attn_bench.bench.progress import Progress
from ring_attn_bench.bench.resume import count, held
from ring_attn_bench.bench.resume import left as left_to_measure
from ring_attn_bench.bench.run import EntrySelection, Run, execute, execute_on
from ring_attn_bench.bench.setup import Setup, played_setup, played_setups, setups
from ring_attn_bench.bench.suite import Entry, Suite
from ring_attn_bench.errors import (
    BackendUnavailable,
    Interrupted,
    InvalidArgument,
    MachineLacks,
    SuiteError,
    Terminated,
    shown,
)  # fmt: skip
from ring_attn_bench.machine import environment as env
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.records.folder import folder_for
from ring_attn_bench.records.lock import alone_in
from ring_attn_bench.records.values import MOST_RANKS, Environment
from ring_attn_bench.workers.progress import some_of


@dataclass(frozen=True)
class Request:
    """What a person asked for. None means: by the machine."""

    suite: str | None = None
    out: Path | None = None
    ranks: int | None = None
    as_ranks: tuple[int, ...] = ()
    """Of larger rings to play; none: the suite's."""
    playing: str | None = None
    backends: tuple[str, ...] = ()
    selection: EntrySelection = field(default_factory=EntrySelection)
    timing: bool = True
    overruled: tuple[str, ...] = ()
    """Keys of the suite with other values: `seqlen_per_gpu=8k,32k`."""
    resume: bool = False
    """Whether what the folder's records hold already need not be measured again."""
    trace: bool = False
    """Whether one more call of each row that is timed is looked at."""


@dataclass(frozen=True)
class ReadRequest:
    """A request whose suite was read."""

    request: Request
    suite: Suite
    argument: str
    """How to name the suite again: a file, or one that comes with the project."""
    added: tuple[str, ...]
    """Backends asked for that the suite does not name."""

    def rings(self, gpus: int) -> tuple[Setup, ...]:
        """What to run on a machine with so many GPUs; raises MachineLacks, InvalidArgument."""
        wanted = self.request.ranks or self.suite.world_size
        if self.as_ranks:
            return played_setups(gpus, wanted, self.as_ranks, self.playing)
        return setups(gpus, wanted)

    @property
    def as_ranks(self) -> tuple[int, ...]:
        """Of the larger rings to play; none: the ring itself is run."""
        return self.request.as_ranks or tuple(self.suite.as_ranks)

    @property
    def playing(self) -> str:
        """Who plays whom in them."""
        return self.suite.playing if self.request.playing is None else self.request.playing

    def select(self, rings: tuple[Setup, ...]) -> tuple[Entry, ...]:
        """The entries to run; raises SuiteError if there are none."""
        entries = [
            entry
            for ring in rings
            for entry in self.suite.entries(ring.world_size, ring.played, ring.playing)
        ]
        backends, selection = self.request.backends, self.request.selection
        if backends:
            entries = [e for e in entries if e.contestant.backend in backends]
        chosen = selection.of(entries)
        if not chosen:
            cases = some_of(list(dict.fromkeys(e.case.name for e in entries)), _SHOWN)
            names = some_of(list(dict.fromkeys(e.contestant.name for e in entries)), _SHOWN)
            raise SuiteError(
                f"nothing to run: no entry of suite {self.suite.name!r} matches {selection}. Its "
                f"cases are {cases}; its contestants {names}."
            )
        return chosen


_SHOWN = 3
"""Names of cases, or of contestants, in a sentence at most."""


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun started.

    By all that is needed to join them: one of these names may be left over from somebody else.
    """
    return {"TORCHELASTIC_RUN_ID", *_TORCHRUN}.issubset(os.environ)


_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def _processes() -> tuple[int, int]:
    """This process's number and how many torchrun started; raises InvalidArgument for none of its.

    What a shell or another launcher has left in those names is no number, or does not fit.
    """
    processes = _variable("WORLD_SIZE", 1)
    process = _variable("RANK", 0, processes - 1)
    _variable("MASTER_PORT", 0, 65535)
    if "LOCAL_RANK" in os.environ:
        _variable("LOCAL_RANK", 0)
    if not os.environ["MASTER_ADDR"]:
        raise _no_variable("MASTER_ADDR", "the name of a machine")
    return process, processes


def _variable(name: str, least: int, most: int | None = None) -> int:
    text = os.environ[name]
    number = int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else -1
    if number < least or (most is not None and number > most):
        raise _no_variable(name, f"a number from {least}{'' if most is None else f' to {most}'}")
    return number


def _no_variable(name: str, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"the environment variable {name} is {shown(os.environ[name])}, and torchrun sets it to "
        f"{what}; start this with torchrun, or, without one, unset TORCHELASTIC_RUN_ID, "
        f"{', '.join(_TORCHRUN)}."
    )


def read(request: Request, *, gpu: bool | None = None) -> ReadRequest:
    """Checks all names and the suite: what needs no machine, so that a mistake is told at once.

    gpu: whether the machine has one, which decides on the suite where nobody names one.
    """
    for name in request.backends:
        registry.check_known(name)
    argument = ("hopper" if gpu else "cpu") if request.suite is None else request.suite
    for what, ranks in (("--ranks", request.ranks), *(("--as-ranks", x) for x in request.as_ranks)):
        if ranks is not None and ranks > MOST_RANKS:
            raise InvalidArgument(f"{what} is {ranks}; a ring has at most {MOST_RANKS} ranks here.")
    path = Path(argument)
    if path.suffix != ".toml":
        if argument not in suite_files.suite_names() and path.is_file():
            raise InvalidArgument(
                f"--suite is {shown(argument)}, a file whose name does not end in .toml, as those "
                "of suites do; rename it."
            )
        path = suite_files.suite_path(argument)
    suite = load_with(path, request.overruled)
    if not request.timing:
        untimed = suite.timing.model_copy(update={"enabled": False})
        suite = suite.model_copy(update={"timing": untimed})
    if request.trace and not suite.timing.enabled:
        raise InvalidArgument(
            f"--trace looks at rows that are timed, and suite {suite.name!r} times none "
            "(timing.enabled is false); leave it out, or add --set timing.enabled=true."
        )
    added = tuple(name for name in request.backends if name not in suite.backends)
    asked = ReadRequest(request, suite.adding(added), argument, added)
    if request.playing is not None and not asked.as_ranks:
        raise InvalidArgument("--playing says who plays a larger ring; --as-ranks says how large.")
    return asked


def asked_of_this_machine(
    request: Request,
) -> tuple[ReadRequest, plug_ins.Inventory, tuple[Setup, ...], tuple[Entry, ...]]:
    """A request, the machine and who can run on it, the rings and what they measure."""
    asked = read(request)
    ranks = request.ranks or asked.suite.world_size
    if (
        request.suite is not None and ranks
    ):  # before seconds go into the machine, which says how to play them
        early: tuple[Setup, ...] = (Setup(ranks, ranks, "real"), Setup(ranks, 1, "loopback"))
        if asked.as_ranks:
            early = tuple(played_setup(x, ranks, asked.playing) for x in asked.as_ranks)
        asked.select(early)
    machine = plug_ins.ask(sorted(_names(request)))
    gpus = int(machine.environment["gpu_count"] or 0)
    asked = read(request, gpu=gpus > 0)
    rings = asked.rings(gpus)
    entries = asked.select(rings)
    _require(request.backends, machine.refusals)
    return asked, machine, rings, entries


def isolated(request: Request, console: Console, *, verbose: bool = False) -> Path:
    """Runs in worker groups; this process never touches CUDA. Returns the run's folder.

    Raises Interrupted where a person ends it.
    """
    asked, machine, rings, entries = asked_of_this_machine(request)
    run = _run(asked, machine.environment)
    try:
        with alone_in(run.folder), Progress(console, verbose=verbose) as progress:
            left = _left(run, entries, asked, progress)
            lines = [heading(asked.suite, machine.environment, rings, left)]
            lines += forecast.sentences(left, machine.refusals, machine.environment)
            progress.heading(lines, count(left))
            execute(run, left, machine, rings, progress)
    except (KeyboardInterrupt, Terminated) as ended:
        raise _interrupted(run, ended) from None
    return run.folder


def in_place(request: Request, console: Console, *, verbose: bool = False) -> Path | None:
    """Runs in the processes that torchrun started. Returns the folder on process 0, else None."""
    from ring_attn_bench.bench.in_place import InPlaceGroup, TeamLost, follow
    from ring_attn_bench.bench.team import Team

    process, processes = _processes()
    if process == 0:  # torchrun ends the others with it
        read(request)
    world_size = request.ranks if processes == 1 and request.ranks else processes
    team = Team.join(world_size, lambda reply: None)
    if team.place.process != 0:
        follow(team)
        return None
    group, run, alone = InPlaceGroup(team), None, False
    try:
        environment = env.describe()
        asked = read(request, gpu=bool(environment["gpu"]))
        rings: tuple[Setup, ...]
        if asked.as_ranks:
            rings = tuple(played_setup(x, processes, asked.playing) for x in asked.as_ranks)
        else:
            played = "real" if processes == world_size else "loopback"
            rings = (Setup(world_size, processes, played),)
        entries = asked.select(rings)
        _require(request.backends, forecast.unavailable(request.backends))
        run = _run(asked, environment)
        with alone_in(run.folder), Progress(console, verbose=verbose) as progress:
            left = _left(run, entries, asked, progress)
            lines = [
                heading(asked.suite, environment, rings, left),
                "In place, under torchrun: not isolated, a crash ends the whole run.",
                *forecast.sentences(left, _unavailable(left), environment),
            ]
            progress.heading(lines, count(left))
            execute_on(run, left, lambda entry: group, progress)
    except (KeyboardInterrupt, Terminated) as ended:
        alone = True  # the others are told by torchrun, and answer no more
        if run is None:
            raise
        raise _interrupted(run, ended) from None
    except TeamLost as error:
        alone = True
        kept = "" if run is None else f" {len(held(run.records))} records are kept in {run.folder}."
        raise SystemExit(f"{error}{kept}") from None
    finally:
        if not alone:
            group.close()
    return run.folder


def _interrupted(run: Run, by: BaseException) -> Interrupted:
    return Interrupted(run.folder, len(held(run.records)), "records", by)


def _names(request: Request) -> set[str]:
    """Of all backends that the suite may turn out to have: of a GPU's, or a CPU's."""
    return {name for gpu in (True, False) for name in read(request, gpu=gpu).suite.backends}


def _unavailable(entries: tuple[Entry, ...]) -> dict[str, str]:
    return forecast.unavailable({entry.contestant.backend for entry in entries})


def _require(backends: tuple[str, ...], reasons: Mapping[str, str]) -> None:
    """Raises MachineLacks if a backend asked for by name is one of those that cannot run here.

    reasons: from a process of its own, where there is one: a package may crash when it is loaded.
    """
    for name in backends:
        if name in reasons:
            raise MachineLacks(str(BackendUnavailable(name, reasons[name])))


def _run(asked: ReadRequest, environment: Environment) -> Run:
    suite = asked.suite
    folder = folder_for(asked.request.out, suite.name, environment)
    overruled = asked.request.overruled
    return Run(
        folder.name, suite, asked.argument, environment, folder, asked.added, overruled,
        asked.request.trace,
    )  # fmt: skip


def _left(
    run: Run, entries: tuple[Entry, ...], asked: ReadRequest, progress: Progress
) -> tuple[Entry, ...]:
    resume = asked.request.resume
    return left_to_measure(run.records, entries, asked.suite, progress.note, resume=resume)


def heading(
    suite: Suite,
    environment: Environment,
    rings: tuple[Setup, ...],
    entries: tuple[Entry, ...],
) -> str:
    """A run's first line: its suite, how many measurements, on what."""
    where = environment.get("gpu") or environment.get("cpu")
    return (
        f"suite {suite.name}: {count(entries)} measurements on {'; '.join(map(str, rings))}; "
        f"{where}, torch {environment['torch']}"
    )
