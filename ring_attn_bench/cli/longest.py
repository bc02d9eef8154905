"""`longest`: how long a sequence each backend takes, and what happens beyond."""

from __future__ import annotations

from typing import Annotated

import typer

from ring_attn_bench.cli import options
from ring_attn_bench.cli.ending import ended_by_a_person
from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import HOW, option
from ring_attn_bench.cli.terminal import console, say, width

Least = Annotated[
    str,
    option(HOW, "TOKENS", "The shortest length of each rank that is tried, as 1k; all others are "
           "multiples of it."),
]  # fmt: skip
Most = Annotated[str, option(HOW, "TOKENS", "The longest length of each rank that is tried.")]
Within = Annotated[
    float, option(HOW, "SHARE", "How near to the longest that there is, as a share of it.", 0.0)
]


def longest(
    suite: options.Suite = None,
    backend: options.Backend = None,
    case: options.Case = "*",
    contestant: options.Contestant = "*",
    matching: options.Filter = "*",
    overruled: options.Set = None,
    ranks: options.Ranks = None,
    least: Least = "1k",
    most: Most = "16m",
    within: Within = 0.05,
    out: options.Out = None,
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """The longest sequence of each backend and direction, by bisection, in workers that may die.

    Each length is one call on inputs that every rank draws for itself, and is right where weights
    add up to one and dv to dout. Beyond it something happens: out of memory, refused, wrong, too
    late (`case_seconds` of the suite), or an error; these are told apart.

    Exit codes are those of `ring-attn-bench --help`: 1 if any of them ends in an error, too late or
    wrong.
    """
    from ring_attn_bench.longest import as_json as programs
    from ring_attn_bench.longest import run, terminal
    from ring_attn_bench.longest.progress import LongestProgress
    from ring_attn_bench.longest.search import Lengths
    from ring_attn_bench.records import limit
    from ring_attn_bench.records.values import MOST
    from ring_attn_bench.text.digits import tokens_of

    request = options.request(
        suite, out, ranks, backend, (case, contestant, matching), overruled,
        resume=resume, timing=False,
    )  # fmt: skip
    shortest, furthest = tokens_of("--least", least, MOST), tokens_of("--most", most, MOST)
    lengths = Lengths(shortest, furthest, within)
    where = console(quiet=quiet, beside=as_json)
    with ended_by_a_person("--resume"), LongestProgress(where) as progress:
        folder = run.longest(request, lengths, progress)
    every = limit.read(folder)
    written = limit.write_sheet(folder, every)
    shown_now = programs.text(every) if as_json else f"\n{terminal.table(every, width())}"
    say(shown_now)
    if not as_json:
        typer.echo(f"\nTable: {written}")
    raise typer.Exit(Exit.WRONG if limit.failures(every) else Exit.RIGHT)
