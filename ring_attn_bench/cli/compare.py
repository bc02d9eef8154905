"""`compare`: two runs, commits or drivers: what became faster, slower, larger or wrong."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import SHOWN, WHERE, AsJson, option
from ring_attn_bench.cli.paths import named, runs_of
from ring_attn_bench.cli.terminal import beside, say, width
from ring_attn_bench.errors import InvalidArgument

WHEN = "What counts as a change"
MOST_BETWEEN = 100.0


def _argument(metavar: str, text: str) -> object:
    return typer.Argument(parser=named, metavar=metavar, help=text)


Effect = Annotated[
    float, option(WHEN, "PERCENT", "Least change of a time that counts, in percent of it.", 0)
]
Error = Annotated[
    float,
    option(
        WHEN, "PERCENT", "Least change of a tensor's rms error that counts, in percent of it.", 0
    ),
]
MemoryChange = Annotated[
    float,
    option(
        WHEN, "PERCENT", "Least change of memory that counts, in percent of it, beyond 2 MiB.", 0
    ),
]
Between = Annotated[
    float,
    option(WHEN, "PERCENT", "Percent by which all times of two runs of one program may differ.", 0),
]
Every = Annotated[
    bool,
    typer.Option("--all", help="All rows: what is the same or better, too.", rich_help_panel=SHOWN),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        parser=named,
        metavar="FILE",
        help="File for JUnit's XML, which is written beside what is shown.",
        rich_help_panel=WHERE,
    ),
]


def compare(
    before: Annotated[
        Path,
        _argument("A", "A run's folder or records file, or a folder of several runs' folders."),
    ],
    after: Annotated[Path, _argument("B", "Another run, or folder of them: what is to be judged.")],
    effect: Effect = 1.0,
    error: Error = 2.0,
    memory: MemoryChange = 1.0,
    between: Between = 0.5,
    every: Every = False,
    as_json: AsJson = False,
    junit: Junit = None,
) -> None:
    """Two runs, row by row: FASTER, SLOWER, SAME or UNSURE; errors and memory too; the worst first.

    Needs no GPU and no torch. SAME is within the noise, SLOWER beyond that of all rows together. A
    folder of several runs' folders is one side: five runs show what one cannot.

    Exit code 0 on no regression, 1 on one that is confirmed: slower, wrong or lost, a larger error,
    more memory; others are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.compare import as_json as told
    from ring_attn_bench.compare import junit as tests
    from ring_attn_bench.compare import terminal
    from ring_attn_bench.compare.comparison import compared
    from ring_attn_bench.compare.rows import Limits
    from ring_attn_bench.compare.sides import side
    from ring_attn_bench.records.files import write

    old, new = (side(str(path), runs_of(path), beside) for path in (before, after))
    for name, value in (
        ("effect", effect),
        ("error", error),
        ("memory", memory),
        ("between", between),
    ):
        if not isfinite(value):
            raise InvalidArgument(f"--{name} is {value}; give a number of percent.")
    if between > MOST_BETWEEN:
        raise InvalidArgument(
            f"--between is {between:g}; give at most {MOST_BETWEEN:g} percent, twice the time."
        )
    limits = Limits(effect / 100, error / 100, memory / 100, between / 100)
    comparison = compared(old, new, limits)
    if junit is not None:
        write(junit, tests.text(comparison))
    say(told.text(comparison) if as_json else terminal.text(comparison, width(), every=every))
    raise typer.Exit(Exit.WRONG if comparison.is_regression else Exit.RIGHT)
