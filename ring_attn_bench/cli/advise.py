"""`advise`: which backend, partition, schedule and transport to take, from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import SHOWN, AsJson, option
from ring_attn_bench.cli.paths import named, runs_of
from ring_attn_bench.cli.terminal import beside, say, width

if TYPE_CHECKING:
    from ring_attn_bench.advise.figures import Figure

WHAT, FROM = "What it is for", "What it is known from"


Heads = Annotated[str, option(WHAT, "Q:K", "Query and key heads, as 32:8.")]
Tokens = Annotated[
    str, option(WHAT, "N", "Tokens of the whole sequence, of all GPUs together: 131072, 128k, 1M.")
]
Gpus = Annotated[int, option(WHAT, "N", "GPUs of one host that the ring has; 1 is no ring.", 1)]
HeadDim = Annotated[int, option(WHAT, "N", "Size of a head: what the records have, 64 or 128.", 1)]
Batch = Annotated[int, option(WHAT, "N", "Sequences in the batch.", 1)]
Dtype = Annotated[
    str, option(WHAT, "NAME", "Dtype of the inputs: what the records have, bfloat16 or float16.")
]
Causal = Annotated[
    bool, typer.Option(help="With a causal mask, or with none.", rich_help_panel=WHAT)
]
Which = Annotated[str, option(WHAT, "WHICH", "What is run: forward or forward_backward.")]
MemorySize = Annotated[
    str | None,
    option(
        WHAT, "SIZE", "Memory of a GPU for all of it, inputs too: 40GB, 512MiB; by itself no limit."
    ),
]
Gpu = Annotated[
    str | None,
    option(WHAT, "NAME", "GPU, by its name or a part of it; by itself the H200 of most records."),
]
Records = Annotated[
    list[Path] | None,
    typer.Option(
        parser=named,
        metavar="PATH",
        rich_help_panel=FROM,
        help="A run, or a folder of runs, in place of those that came along; may be repeated.",
    ),
]
Every = Annotated[
    bool,
    typer.Option("--all", help="All ways that are known; by itself 8.", rich_help_panel=SHOWN),
]


def advise(
    heads: Heads,
    tokens: Tokens,
    gpus: Gpus,
    head_dim: HeadDim = 128,
    batch: Batch = 1,
    dtype: Dtype = "bfloat16",
    causal: Causal = True,
    direction: Which = "forward_backward",
    memory: MemorySize = None,
    gpu: Gpu = None,
    records: Records = None,
    every: Every = False,
    as_json: AsJson = False,
) -> None:
    """Backend, partition, schedule and transport for a shape: time, memory, why, and runners-up.

    From records: measured, between two lengths, or by the cost model, which is said. Needs no GPU
    and no torch. What does not fit the memory is not advised.

    Exit code 0 if a way is named, 1 if nothing fits or is known; others are those of
    `ring-attn-bench --help`.
    """
    from ring_attn_bench.advise import as_json as told
    from ring_attn_bench.advise import question, terminal
    from ring_attn_bench.advise.answer import advised
    from ring_attn_bench.text.digits import tokens_of

    query, key = question.heads(heads)
    wanted = question.Question(
        query, key, head_dim, tokens_of("--tokens", tokens, question.MOST_TOKENS), gpus, causal,
        question.with_backward(direction), dtype, batch,
        None if memory is None else question.mebibytes(memory), gpu,
    )  # fmt: skip
    advice = advised(wanted, _figures(records or []))
    say(told.text(advice) if as_json else terminal.text(advice, width(), every=every))
    raise typer.Exit(Exit.WRONG if advice.best is None else Exit.RIGHT)


def _figures(paths: list[Path]) -> tuple[Figure, ...]:
    from ring_attn_bench.advise.figures import SHIPPED, of_records, read_csv
    from ring_attn_bench.records.record import read

    if not paths:
        return read_csv(SHIPPED)
    files = [file for path in paths for file in runs_of(path)]
    return tuple(
        figure for file in files for figure in of_records(file.parent.name, read(file, beside))
    )
