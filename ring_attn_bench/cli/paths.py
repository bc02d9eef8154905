"""Files and folders that a person named on the command line."""

from __future__ import annotations

from pathlib import Path

import typer


def named(text: str) -> Path:
    """What a person named; an empty word is a variable of a shell's that was not set."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a file or a folder, '.' for this one.")
    return Path(text)


def records_file(path: Path) -> Path:
    """The records of a run's folder; of two files the newer, and the other is named."""
    if not path.is_dir():
        return path
    plain, zipped = path / "records.jsonl", path / "records.jsonl.gz"
    if not (plain.exists() and zipped.exists()):
        return zipped if zipped.exists() else plain
    # a run into the folder of one whose records were packed since
    newer, older = plain, zipped
    if zipped.stat().st_mtime > plain.stat().st_mtime:
        newer, older = zipped, plain
    typer.echo(
        f"{path} has two files of records: the newer is read, {newer.name}; to see the other, "
        f"give {older}.",
        err=True,
    )
    return newer


def runs_of(path: Path) -> tuple[Path, ...]:
    """The records of one run, or of each run in a folder of runs' folders."""
    one = records_file(path)
    if one.exists() or not path.is_dir():
        return (one,)
    inner = sorted(records_file(folder) for folder in path.iterdir() if folder.is_dir())
    return tuple(file for file in inner if file.exists()) or (one,)
