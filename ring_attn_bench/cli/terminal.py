"""Where the verbs print."""

from __future__ import annotations

import shutil

import typer
from rich.console import Console

from ring_attn_bench.text.controls import spelled


def say(text: str) -> None:
    """Prints a text; words of others in it move no cursor and paint nothing."""
    typer.echo(spelled(text))


def beside(sentence: str) -> None:
    """The same to standard error, where standard output is a table's or a program's."""
    typer.echo(spelled(sentence), err=True)


def console(*, quiet: bool = False, beside: bool = False) -> Console:
    """For lines that come one by one; in colours on a terminal, numbers in none of their own.

    quiet: prints none. beside: to standard error, where standard output is a program's.
    """
    return Console(highlight=False, quiet=quiet, stderr=beside)


def width() -> int:
    """Of the terminal, within what can be read; of none, 100."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 160))
