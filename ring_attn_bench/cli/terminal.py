"""Where the verbs print."""

from __future__ import annotations

import shutil

from rich.console import Console


def console(*, quiet: bool = False, beside: bool = False) -> Console:
    """For lines that come one by one; in colours on a terminal, numbers in none of their own.

    quiet: prints none. beside: to standard error, where standard output is a program's.
    """
    return Console(highlight=False, quiet=quiet, stderr=beside)


def width() -> int:
    """Of the terminal, within what can be read; of none, 100."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 160))
