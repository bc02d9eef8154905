"""What is said when a person or SIGTERM ends a run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.errors import Interrupted, Terminated


@contextmanager
def ended_by_a_person(*more: str, report: bool = False) -> Iterator[None]:
    """Where a person or SIGTERM ends what runs inside: says what is kept, and how to go on.

    more: options with which the same command does only what is left.
    """
    try:
        yield
    except Interrupted as ended:
        terminated = isinstance(ended.by, Terminated)
        typer.echo(f"\n{'Terminated' if terminated else 'Interrupted'}: {ended}.", err=True)
        name, folder = _called(again=True), str(ended.folder)
        words = [word for word in sys.argv[1:] if word not in more]
        if not any(word.split("=")[0] == "--out" for word in words):
            words += ["--out", folder]
        if not ended.kept:  # nothing to go on from, and nothing to report
            typer.echo(f"To begin again:  {name} {shlex.join(words)}", err=True)
        elif more:
            typer.echo(f"To go on:  {name} {shlex.join([*words, *more])}", err=True)
        if report and ended.kept:
            typer.echo(f"A report of them:  {_called()} {shlex.join(['report', folder])}", err=True)
        raise typer.Exit(Exit.TERMINATED if terminated else Exit.INTERRUPTED) from None


def _called(*, again: bool = False) -> str:
    """How this program is called, or was, to do the same `again`, under torchrun too."""
    if again and "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_WORLD_SIZE" in os.environ:
        processes = os.environ["LOCAL_WORLD_SIZE"]
        return f"torchrun --nproc-per-node={processes} -m ring_attn_bench"
    if Path(sys.argv[0]).stem == "ring-attn-bench":
        return "ring-attn-bench"
    return shlex.join([sys.executable, "-m", "ring_attn_bench"])
