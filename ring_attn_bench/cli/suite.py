"""`check` and `bench`: a suite, with times or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from ring_attn_bench.cli import options, report
from ring_attn_bench.cli.ending import ended_by_a_person
from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.terminal import console, say
from ring_attn_bench.errors import InvalidArgument

if TYPE_CHECKING:
    from ring_attn_bench.bench.start import Request


@dataclass(frozen=True)
class _Shown:
    """How much a person, or a program, wants to see."""

    dry_run: bool
    quiet: bool
    verbose: bool
    as_json: bool


def check(
    suite: options.Suite = None,
    backend: options.Backend = None,
    case: options.Case = "*",
    contestant: options.Contestant = "*",
    matching: options.Filter = "*",
    overruled: options.Set = None,
    ranks: options.Ranks = None,
    dry_run: options.DryRun = False,
    out: options.Out = None,
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
) -> None:
    """Correctness of a suite, without times: errors against float64.

    Exit codes are those of `ring-attn-bench --help`.
    """
    request = options.request(
        suite, out, ranks, backend, (case, contestant, matching), overruled,
        resume=resume, timing=False,
    )  # fmt: skip
    _run(request, _Shown(dry_run, quiet, verbose, as_json))


def bench(
    suite: options.Suite = None,
    backend: options.Backend = None,
    case: options.Case = "*",
    contestant: options.Contestant = "*",
    matching: options.Filter = "*",
    overruled: options.Set = None,
    ranks: options.Ranks = None,
    as_ranks: options.AsRanks = None,
    playing: options.Playing = None,
    trace: options.Trace = False,
    dry_run: options.DryRun = False,
    out: options.Out = None,
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
) -> None:
    """Correctness, time and memory of a suite: records, tables, CSV and plots.

    By itself it runs each backend in worker processes of its own. Under torchrun it runs in the
    processes that torchrun started.

    With --as-ranks, each of two GPUs does what one rank of a larger ring does, and plays all other
    ranks to its partner: times are those of that ring, and errors of the same ring by loopback.
    Without a GPU two processes do so, and times say nothing.

    Exit codes are those of `ring-attn-bench --help`.
    """
    request = options.request(
        suite, out, ranks, backend, (case, contestant, matching), overruled,
        resume=resume, as_ranks=tuple(as_ranks or ()), playing=playing, trace=trace,
    )  # fmt: skip
    _run(request, _Shown(dry_run, quiet, verbose, as_json))


def _run(request: Request, shown: _Shown) -> None:
    from ring_attn_bench.bench.start import in_place, isolated, under_torchrun

    if shown.dry_run:
        _tell(request, in_place=under_torchrun(), as_json=shown.as_json)
        return
    where = console(quiet=shown.quiet, beside=shown.as_json)
    with ended_by_a_person("--resume", report=True):
        run = in_place if under_torchrun() else isolated
        folder = run(request, where, verbose=shown.verbose)
    if folder is None:
        return
    if report.show(folder / "records.jsonl", folder, as_json=shown.as_json):
        raise typer.Exit(Exit.WRONG)


def _tell(request: Request, *, in_place: bool, as_json: bool) -> None:
    from ring_attn_bench.bench import as_json as told
    from ring_attn_bench.bench.dry_run import lines, outlook

    if in_place:
        raise InvalidArgument("--dry-run runs nothing, and needs no torchrun; start it without.")
    seen = outlook(request)
    say(told.text(seen) if as_json else "\n".join(lines(seen)))
