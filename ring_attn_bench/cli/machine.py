"""`list` and `env`: what this machine can run, and what it lacks."""

from __future__ import annotations

from typing import Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import AsJson
from ring_attn_bench.cli.terminal import width

Check = Annotated[bool, typer.Option("--check/--no-check", help="Whether to look for faults too.")]


def list_backends(as_json: AsJson = False) -> None:
    """Every backend, peer and transport, what it is, and why it cannot run here if it cannot.

    Exit codes are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.machine import as_json as told
    from ring_attn_bench.machine import plug_ins
    from ring_attn_bench.machine.terminal import backends

    every = plug_ins.every()
    typer.echo(told.backends(every) if as_json else backends(every, width()))


def env(as_json: AsJson = False, check: Check = True) -> None:
    """What this machine has, what is missing and the command that installs it, and a self-check.

    The check computes attention once, forward and backward, and on GPUs looks at clocks and at what
    they can reach of each other. It takes about five seconds.

    Exit codes are those of `ring-attn-bench --help`: 0 whatever is missing, 1 if what was checked
    is wrong.
    """
    from ring_attn_bench.machine import as_json as told
    from ring_attn_bench.machine import plug_ins, terminal

    environment = plug_ins.ask().environment
    looks = plug_ins.check() if check else ()
    if as_json:
        typer.echo(told.machine(environment, looks))
    else:
        typer.echo(terminal.machine(environment, width()) + terminal.looks(looks, width()))
    if any(look.is_right is False for look in looks):
        raise typer.Exit(Exit.WRONG)
