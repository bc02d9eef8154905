"""A whole tuning run: which trials, all of them verified, the right ones timed row by row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ring_attn_bench import registry
from ring_attn_bench.errors import (
    BackendUnavailable,
    Interrupted,
    InvalidArgument,
    MachineLacks,
    Terminated,
    clause,
)  # fmt: skip
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.records.folder import folder_for
from ring_attn_bench.records.lock import alone_in
from ring_attn_bench.records.outcome import (
    Outcome,
    Provenance,
    RowKey,
    TimedShape,
    TypedTrial,
    write,
)
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Environment
from ring_attn_bench.tune.messages import Load, Loaded, Speeds, Time, TrialSpeed
from ring_attn_bench.tune.select import TrialSelection
from ring_attn_bench.tune.verifier import verify_all
from ring_attn_bench.workers.keeper import Keeper, Watcher
from ring_attn_bench.workers.pool import Hand
from ring_attn_bench.workers.reply import Reply, WorkerFailed

ROW_SECONDS = 20.0
"""Of rounds, for a row; slower rows get fewer rounds, see `timing.time_row`."""
ROW_PATIENCE = 180.0
"""Beyond that, until a row that is timed is given up: float32 rounds can take seconds each."""
MOST_JOBS = 15
"""By default: each process has a context of its own on the GPU, half a gigabyte."""


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What a person asked for. None means: by the machine."""

    backend: str
    selection: TrialSelection
    shape: TimedShape
    rounds: int
    seconds: float
    out: Path | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True)
class _Tuning:
    """What all of a run shares."""

    request: TuneRequest
    load: Load
    environment: dict[str, str]
    provenance: Provenance
    keeper: Keeper[str, Outcome]

    def hand(self) -> Hand[Loaded]:
        """Another process, started when it is needed."""
        return _hand(self.load, self.environment)

    def outcome(self, subject: TypedTrial, told: Reply | TrialSpeed) -> Outcome:
        """The outcome of a trial as it goes on record."""
        times = (told.full, told.causal) if isinstance(told, TrialSpeed) else ((), ())
        return Outcome(
            subject=subject, verdict=told.status, reason=" ".join(told.reason.split()),
            provenance=self.provenance, shape=self.request.shape, full=times[0], causal=times[1],
        )  # fmt: skip


def tune(request: TuneRequest, watcher: Watcher[str, Outcome]) -> Path:
    """Tunes, and returns the folder with tuning.csv; this process never touches CUDA.

    Raises UnknownName; InvalidArgument for a backend without configurations, or if no trial is
    what was asked for; MachineLacks if the backend cannot run here; Interrupted by a person.
    """
    registry.check_backend(request.backend)
    machine = plug_ins.ask([request.backend])
    told, environment = machine.contestants[request.backend], machine.environment
    if told.tunable is None:
        raise MachineLacks(str(BackendUnavailable(request.backend, told.reason)))
    if not told.tunable:
        raise InvalidArgument(_has_nothing_to_tune(request.backend))
    needed = machine.variables(request.backend)
    load = Load.model_validate({"backend": request.backend, "device": machine.device})
    first = _hand(load, needed)
    try:
        loaded = _loaded(first, request.backend)
        subjects = request.selection.of(loaded.offer.trials)
        folder = folder_for(request.out, "tuning", environment)
        path = folder / "tuning.csv"
        keeper = Keeper[str, Outcome](path, subjects, lambda x: x.subject, write, watcher)
        provenance = _provenance(request.backend, loaded.version, environment)
        run = _Tuning(request, load, needed, provenance, keeper)
        try:
            with alone_in(folder):
                _tune(run, subjects, loaded, first, watcher)
        except (KeyboardInterrupt, Terminated) as ended:
            raise Interrupted(folder, len(keeper.rows), "outcomes", ended) from None
    finally:
        first.end()
    return folder


def _tune(
    run: _Tuning,
    subjects: Sequence[TypedTrial],
    loaded: Loaded,
    first: Hand[Loaded],
    watcher: Watcher[str, Outcome],
) -> None:
    jobs = min(run.request.jobs or min(MOST_JOBS, os.cpu_count() or 1), len(subjects))
    rows = dict.fromkeys(subject.row for subject in subjects)
    tasks = len(subjects) + (len(rows) if loaded.offer.untimed is None else 0)
    watcher.heading(_heading(run, subjects, len(rows), jobs, loaded), tasks)
    _verify(run, subjects, [first, *(run.hand() for _ in range(jobs - 1))])
    if loaded.offer.untimed is not None:
        return
    timer = run.hand()
    try:
        for row in rows:
            _time_row(run, row, timer)
    finally:
        timer.end()


def _verify(run: _Tuning, subjects: Sequence[TypedTrial], hands: Sequence[Hand[Loaded]]) -> None:
    def tell(subject: TypedTrial, told: Reply) -> None:
        run.keeper.done(str(subject), [run.outcome(subject, told)])

    try:
        verify_all(subjects, hands, run.request.seconds, run.keeper.doing, tell, run.keeper.check)
    except BaseException:
        run.keeper.end()
        raise
    finally:
        for hand in hands:
            hand.end()
    if any(map(run.keeper.lacks, subjects)):
        raise RuntimeError("outcomes are missing: a thread that asked has failed, see above")


def _time_row(run: _Tuning, row: RowKey, timer: Hand[Loaded]) -> None:
    kernel, table, head_dim, dtype = row
    what = f"{table} {kernel} {head_dim} {dtype}, timed"
    run.keeper.doing(what)
    right = [
        outcome.subject
        for outcome in run.keeper.rows
        if outcome.subject.row == row and outcome.verdict is Status.OK
    ]
    speeds = _speeds(run.request, right, timer) if right else ()
    outcomes = [run.outcome(*pair) for pair in zip(right, speeds, strict=True)]
    run.keeper.done(what, outcomes)
    run.keeper.check()


def _speeds(
    request: TuneRequest, right: Sequence[TypedTrial], timer: Hand[Loaded]
) -> tuple[TrialSpeed, ...]:
    command = Time(
        subjects=tuple(right), shape=request.shape, rounds=request.rounds, seconds=ROW_SECONDS
    )
    try:
        return timer.ask(command, ROW_SECONDS + ROW_PATIENCE, Speeds).speeds
    except WorkerFailed as failure:
        reason = f"when its row was timed, {failure.reason}"
        return (TrialSpeed(status=failure.status, reason=reason),) * len(right)


def _hand(load: Load, environment: dict[str, str]) -> Hand[Loaded]:
    hand = Hand("ring_attn_bench.tune.serve", Loaded)
    hand.hold(load, environment)
    return hand


def _loaded(hand: Hand[Loaded], backend: str) -> Loaded:
    try:
        loaded = hand.load()
    except WorkerFailed as failure:
        raise MachineLacks(
            f"backend {backend!r} does not load: {clause(failure.reason)}."
        ) from None
    if loaded.unavailable is not None:
        raise MachineLacks(f"backend {backend!r} is unavailable: {clause(loaded.unavailable)}.")
    return loaded


def _has_nothing_to_tune(backend: str) -> str:
    every = plug_ins.ask(registry.backends()).contestants
    tunable = [name for name, told in every.items() if told.tunable]
    return (
        f"backend {backend!r} offers no configurations to tune; those that do: "
        f"{', '.join(tunable) or 'none'}. A class offers them with the two methods of "
        "ring_attn_bench.contract.tunable.Tunable (docs/adding-a-backend.md)."
    )


def _heading(
    run: _Tuning, subjects: Sequence[TypedTrial], rows: int, jobs: int, loaded: Loaded
) -> tuple[str, ...]:
    request, place, untimed = run.request, run.provenance, loaded.offer.untimed
    speeds = (
        f"the right ones timed at {request.shape}, {request.rounds} rounds"
        if untimed is None
        else f"no speed is measured: {untimed}"
    )
    return (
        f"{len(subjects)} configurations for {rows} table rows, verified by {jobs} processes; "
        f"{speeds}; {place.device}, torch {place.torch}, {place.version}",
        *loaded.offer.left_out,
    )


def _provenance(backend: str, version: str, environment: Environment) -> Provenance:
    commit = str(environment.get("commit") or "")
    return Provenance(
        backend=backend,
        version=version,
        device=str(environment.get("gpu") or environment.get("cpu")),
        torch=str(environment["torch"]),
        triton=str(environment.get("triton") or ""),
        commit=f"{commit}, changed" if environment.get("dirty") else commit,
    )
