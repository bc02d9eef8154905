"""The folder of a process or a group, put away so that nobody brings it back."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path


def put_away(folder: Path) -> None:
    """Removes a folder, in which others, who know its name, may write at this moment.

    Under its own name, a file that appears while the others are removed would keep it for good; so
    it loses its name first. Several may do so at once.
    """
    nameless = folder.with_name(f"{folder.name}.gone")
    with suppress(OSError):  # somebody else has, or there is none
        folder.rename(nameless)
    shutil.rmtree(nameless, ignore_errors=True)
