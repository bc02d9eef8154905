"""`advise`: which backend, partition, schedule and transport to take, from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import option
from ring_attn_bench.cli.paths import named, runs_of
from ring_attn_bench.cli.terminal import width

if TYPE_CHECKING:
    from ring_attn_bench.advise.figures import Figure

WHAT, HOW = "What it is for", "From what, and how it is shown"
DIRECTIONS = ("forward", "both")


def advise(
    heads: Annotated[str, option(WHAT, "Q:K", "Query and key heads, as 32:8.")],
    tokens: Annotated[
        str, option(WHAT, "N", "Of the whole sequence, all GPUs together: 131072, 128k, 1M.")
    ],
    gpus: Annotated[int, option(WHAT, "N", "Of one host.", 1)],
    head_dim: Annotated[int, option(WHAT, "N", "Numbers in a head.", 1)] = 128,
    batch: Annotated[int, option(WHAT, "N", "Sequences.", 1)] = 1,
    dtype: Annotated[str, option(WHAT, "NAME", "Of the inputs.")] = "bfloat16",
    causal: Annotated[bool, typer.Option(help="The mask.", rich_help_panel=WHAT)] = True,
    direction: Annotated[
        str, option(WHAT, "WHICH", f"{DIRECTIONS[0]}, or {DIRECTIONS[1]} with backward.")
    ] = DIRECTIONS[1],
    memory: Annotated[
        str | None, option(WHAT, "SIZE", "What a GPU has for it, inputs included: 40GB, 512MiB.")
    ] = None,
    gpu: Annotated[
        str | None, option(WHAT, "NAME", "The GPU, or a part of its name; by the records an H200.")
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            parser=named, metavar="PATH", rich_help_panel=HOW,
            help="A run, or a folder of runs, in place of the ones that came along; may be "
            "repeated.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All ways that are known.", rich_help_panel=HOW)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="As JSON: docs/advice.md.", rich_help_panel=HOW)
    ] = False,
) -> None:  # fmt: skip
    """Backend, partition, schedule and transport for a shape: time, memory, why, and runners-up.

    From records: measured, between two lengths, or by the cost model, which is said. Needs no GPU
    and no torch. What does not fit the memory is not advised.

    Exit code 1 where nothing fits or is known; others are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.advise import as_json as told
    from ring_attn_bench.advise import question, terminal
    from ring_attn_bench.advise.answer import advised
    from ring_attn_bench.errors import UnknownName

    if direction not in DIRECTIONS:
        raise UnknownName("direction", direction, DIRECTIONS)
    query, key = question.heads(heads)
    wanted = question.Question(
        query, key, head_dim, question.tokens(tokens), gpus, causal, direction == DIRECTIONS[1],
        dtype, batch, None if memory is None else question.mebibytes(memory), gpu,
    )  # fmt: skip
    found = advised(wanted, _figures(records or []))
    typer.echo(told.text(found) if json else terminal.text(found, width(), every=every))
    raise typer.Exit(Exit.WRONG if found.best is None else Exit.RIGHT)


def _figures(paths: list[Path]) -> tuple[Figure, ...]:
    from ring_attn_bench.advise.figures import SHIPPED, of_records, read_csv
    from ring_attn_bench.records.record import read

    if not paths:
        return read_csv(SHIPPED)
    files = [file for path in paths for file in runs_of(path)]
    return tuple(
        figure
        for file in files
        for figure in of_records(
            file.parent.name, read(file, lambda text: typer.echo(text, err=True))
        )
    )
