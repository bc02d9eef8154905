"""`list` and `env`: what this machine can run, and what it lacks."""

from __future__ import annotations

import typer

from ring_attn_bench.cli.options import AsJson
from ring_attn_bench.cli.terminal import width


def list_backends(as_json: AsJson = False) -> None:
    """Every backend, peer and transport, what it is, and why it cannot run here if it cannot.

    Exit codes are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.machine import as_json as told
    from ring_attn_bench.machine import plug_ins
    from ring_attn_bench.machine.terminal import backends

    every = plug_ins.every()
    typer.echo(told.backends(every) if as_json else backends(every, width()))


def env(as_json: AsJson = False) -> None:
    """What this machine has, what is missing, and the command that installs it.

    Exit codes are those of `ring-attn-bench --help`: 0 whatever is missing.
    """
    from ring_attn_bench.machine import as_json as told
    from ring_attn_bench.machine import plug_ins
    from ring_attn_bench.machine.terminal import machine

    environment = plug_ins.ask().environment
    typer.echo(told.machine(environment) if as_json else machine(environment, width()))
