"""Where the verbs print."""

from __future__ import annotations

import shutil

from rich.console import Console


def console() -> Console:
    """For lines that come one by one; in colours on a terminal, numbers in none of their own."""
    return Console(highlight=False)


def width() -> int:
    """Of the terminal, within what can be read; of none, 100."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 160))
