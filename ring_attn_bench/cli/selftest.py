"""`selftest`: does the harness name what is wrong."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import WHAT, AsJson, option
from ring_attn_bench.cli.terminal import console, width


class Device(StrEnum):
    """Where faults are planted."""

    CPU = "cpu"
    CUDA = "cuda"


Fault = Annotated[
    list[str] | None,
    option(WHAT, "PATTERN", "Only faults that match this shell pattern; may be repeated."),
]
On = Annotated[
    Device,
    typer.Option(
        "--device",
        help="Where the workers compute.",
        rich_help_panel=WHAT,
    ),
]


def selftest(fault: Fault = None, on: On = Device.CPU, as_json: AsJson = False) -> None:
    """Plants faults behind the contract, and shows that the harness names each of them.

    Kernels and transports with one fault each, wrong in their numbers, late, hanging or dying, are
    plugged in as any package's, and `bench` meets them in workers of its own: a minute.

    Exit code 0 if every fault is named and every control is right, 1 if not; others are those of
    `ring-attn-bench --help`.
    """
    from ring_attn_bench.selftest import as_json as told
    from ring_attn_bench.selftest import run, terminal
    from ring_attn_bench.selftest.progress import SelftestProgress

    asked = run.planted(on.value, tuple(fault or ()))
    with SelftestProgress(console(beside=as_json)) as progress:
        progress.heading([f"{len(asked.faults)} faults and controls, on {on}"], len(asked.faults))
        every = run.selftest(asked, on.value, progress.heard)
    if as_json:
        typer.echo(told.text(every, asked.left_out))
    else:
        typer.echo(f"\n{terminal.text(every, asked.left_out, width())}")
    named = all(each.is_named for each in every)
    raise typer.Exit(Exit.RIGHT if named else Exit.WRONG)
