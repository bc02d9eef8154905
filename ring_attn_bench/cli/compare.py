"""`compare`: two runs, commits or drivers: what became faster, slower, larger or wrong."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import option
from ring_attn_bench.cli.paths import named, runs_of
from ring_attn_bench.cli.terminal import width
from ring_attn_bench.errors import InvalidArgument

WHEN = "What counts as a change"
HOW = "How it is shown"


def _argument(metavar: str, text: str) -> object:
    return typer.Argument(parser=named, metavar=metavar, help=text)


def compare(
    before: Annotated[
        Path,
        _argument("A", "A run's folder or records file, or a folder of several runs' folders."),
    ],
    after: Annotated[Path, _argument("B", "Another: what is newer, or is to be judged.")],
    effect: Annotated[float, option(WHEN, "PERCENT", "A time's change that matters.", 0)] = 1.0,
    error: Annotated[float, option(WHEN, "PERCENT", "An error's, root mean square.", 0)] = 2.0,
    memory: Annotated[float, option(WHEN, "PERCENT", "A memory's; more than 2 MiB.", 0)] = 1.0,
    between: Annotated[
        float, option(WHEN, "PERCENT", "What two runs of one program may differ by in all rows.", 0)
    ] = 0.5,
    every: Annotated[
        bool, typer.Option("--all", help="What is the same, or better, too.", rich_help_panel=HOW)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="As JSON: docs/comparing.md.", rich_help_panel=HOW)
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            parser=named, metavar="FILE", help="Write JUnit's XML there too.", rich_help_panel=HOW
        ),
    ] = None,
) -> None:
    """Two runs, row by row: FASTER, SLOWER, SAME or UNSURE; errors and memory too; the worst first.

    Needs no GPU and no torch. SAME is within the noise, SLOWER beyond that of all rows together. A
    folder of several runs' folders is one side: five runs show what one cannot.

    Exit code 1 on a regression that is confirmed: slower, wrong or lost, a larger error, more
    memory; 0 on none; others are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.compare import as_json as told
    from ring_attn_bench.compare import junit as tests
    from ring_attn_bench.compare import terminal
    from ring_attn_bench.compare.comparison import compared
    from ring_attn_bench.compare.rows import Limits
    from ring_attn_bench.compare.sides import side
    from ring_attn_bench.records.files import write

    def tell(sentence: str) -> None:
        typer.echo(sentence, err=True)

    old, new = (side(str(path), runs_of(path), tell) for path in (before, after))
    for name, value in (
        ("effect", effect),
        ("error", error),
        ("memory", memory),
        ("between", between),
    ):
        if not isfinite(value):
            raise InvalidArgument(f"--{name} is {value}; give a number of percent.")
    limits = Limits(effect / 100, error / 100, memory / 100, between / 100)
    found = compared(old, new, limits)
    if junit is not None:
        write(junit, tests.text(found))
    typer.echo(told.text(found) if json else terminal.text(found, width(), every=every))
    raise typer.Exit(Exit.WRONG if found.is_regression else Exit.RIGHT)
