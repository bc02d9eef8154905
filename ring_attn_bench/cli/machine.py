"""`list` and `env`: what this machine can run, and what it lacks."""

from __future__ import annotations

import typer

from ring_attn_bench.cli.terminal import width


def list_backends() -> None:
    """Every backend, peer and transport, what it is, and why it cannot run here if it cannot."""
    from ring_attn_bench.machine.listing import backends

    typer.echo(backends(width()))


def env() -> None:
    """What this machine has, what is missing, and the command that installs it."""
    from ring_attn_bench.machine.environment import probe
    from ring_attn_bench.machine.listing import machine

    typer.echo(machine(probe(), width()))
