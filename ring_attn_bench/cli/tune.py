"""`tune`: which of a backend's configurations should be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ring_attn_bench.cli.ending import ended_by_a_person
from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import HOW, WHAT, Out, Quiet, option
from ring_attn_bench.cli.terminal import console, say, width

Kernel = Annotated[
    list[str] | None,
    option(
        WHAT, "NAME", "Only this kernel, forward, backward_dq or backward_dkdv; may be repeated."
    ),
]
HeadDim = Annotated[list[int] | None, option(WHAT, "N", "Only this head dim; may be repeated.")]
Dtype = Annotated[
    list[str] | None,
    option(
        WHAT,
        "NAME",
        "Only in this dtype, as bfloat16; by itself the first of a table row; may be repeated.",
    ),
]
Seqlen = Annotated[int, option(WHAT, "N", "Tokens of the sequence that is timed.", 1)]
Heads = Annotated[str, option(WHAT, "Q:K", "Query and key heads that are timed, as 16:4.")]
Rounds = Annotated[int, option(HOW, "N", "Rounds of timing; in each, every trial runs once.", 1)]
Jobs = Annotated[
    int | None, option(HOW, "N", "Trials verified at a time; by itself one a core, at most 15.", 1)
]
Seconds = Annotated[float, option(HOW, "S", "Seconds at most to verify one trial.", 0.1)]


def tune(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", help="A backend that has configurations, as triton.")
    ],
    kernel: Kernel = None,
    head_dim: HeadDim = None,
    dtype: Dtype = None,
    seqlen: Seqlen = 16384,
    heads: Heads = "16:4",
    rounds: Rounds = 15,
    jobs: Jobs = None,
    seconds: Seconds = 90.0,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """A backend's configurations: each verified, the right ones timed, the fastest named.

    Exit code 0 if all that are shipped are right, 1 if one is not; others are those of
    `ring-attn-bench --help`. What a candidate fails in is an answer.
    """
    from ring_attn_bench.records.outcome import TimedShape
    from ring_attn_bench.tune import run
    from ring_attn_bench.tune.progress import TuneProgress
    from ring_attn_bench.tune.select import TrialSelection

    shape = TimedShape.of(seqlen, heads)
    selection = TrialSelection(tuple(kernel or ()), tuple(head_dim or ()), tuple(dtype or ()))
    request = run.TuneRequest(backend, selection, shape, rounds, seconds, out, jobs)
    with ended_by_a_person(), TuneProgress(console(quiet=quiet)) as progress:
        folder = run.tune(request, progress)
    _show(folder)


def _show(folder: Path) -> NoReturn:
    from ring_attn_bench.records.outcome import read
    from ring_attn_bench.report import tuning

    outcomes = read(folder)
    say(f"\n{tuning.terminal(outcomes, width())}")
    typer.echo(f"\nPage: {tuning.write_tuning(outcomes, folder)}")
    raise typer.Exit(Exit.WRONG if tuning.shipped_failures(outcomes) else Exit.RIGHT)
