"""`check` and `bench`: a suite, with times or without."""

from __future__ import annotations

from pathlib import Path

import typer

from ring_attn_bench.cli import options, report
from ring_attn_bench.cli.ending import ended_by_a_person
from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.terminal import console


def check(
    suite: options.Suite = None,
    backend: options.Backend = None,
    case: options.Case = "*",
    contestant: options.Contestant = "*",
    ranks: options.Ranks = None,
    out: options.Out = None,
    resume: options.Resume = False,
) -> None:
    """Correctness of a suite, without times: errors against float64.

    Exit codes are those of `ring-attn-bench --help`.
    """
    _run(suite, out, ranks, backend, case, contestant, timing=False, resume=resume)


def bench(
    suite: options.Suite = None,
    backend: options.Backend = None,
    case: options.Case = "*",
    contestant: options.Contestant = "*",
    ranks: options.Ranks = None,
    as_ranks: options.AsRanks = None,
    playing: options.Playing = None,
    out: options.Out = None,
    resume: options.Resume = False,
) -> None:
    """Correctness, time and memory of a suite: records, tables, CSV and plots.

    By itself it runs each backend in worker processes of its own. Under torchrun it runs in the
    processes that torchrun started.

    With --as-ranks, each of two GPUs does what one rank of a larger ring does, and plays all other
    ranks to its partner: times are those of that ring, and errors of the same ring by loopback.
    Without a GPU two processes do so, and times say nothing.

    Exit codes are those of `ring-attn-bench --help`.
    """
    larger = tuple(as_ranks or ()), playing
    _run(suite, out, ranks, backend, case, contestant, larger, timing=True, resume=resume)


def _run(
    suite: str | None,
    out: Path | None,
    ranks: int | None,
    backend: list[str] | None,
    case: str,
    contestant: str,
    larger: tuple[tuple[int, ...], str | None] = ((), None),
    *,
    timing: bool,
    resume: bool,
) -> None:
    from ring_attn_bench.bench.run import EntrySelection
    from ring_attn_bench.bench.start import Request, in_place, isolated, under_torchrun

    selection = EntrySelection(case, contestant)
    request = Request(suite, out, ranks, *larger, tuple(backend or ()), selection, timing, resume)
    with ended_by_a_person("--resume", report=True):
        folder = (in_place if under_torchrun() else isolated)(request, console())
    if folder is not None and report.show(folder / "records.jsonl", folder):
        raise typer.Exit(Exit.WRONG)
