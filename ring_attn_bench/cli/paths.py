"""Files and folders that a person named on the command line."""

from __future__ import annotations

from pathlib import Path

import typer

from ring_attn_bench.cli.terminal import beside


def named(text: str) -> Path:
    """What a person named; an empty word is a variable of a shell's that was not set."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a file or a folder, '.' for this one.")
    return Path(text)


def records_file(path: Path) -> Path:
    """The records of a run's folder; of two files the newer, and the other is named."""
    if not path.is_dir():
        return path
    from ring_attn_bench.records.folder import records_in

    return records_in(path, beside)


def runs_of(path: Path) -> tuple[Path, ...]:
    """The records of one run, or of each run in a folder of runs' folders."""
    one = records_file(path)
    if one.exists() or not path.is_dir():
        return (one,)
    inner = sorted(records_file(folder) for folder in path.iterdir() if folder.is_dir())
    return tuple(file for file in inner if file.exists()) or (one,)
