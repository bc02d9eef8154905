"""The folder of a run: the one that was asked for, or a new one that is named by what it holds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ring_attn_bench.records.files import make_folder, new_folder
from ring_attn_bench.records.json_lines import Tell
from ring_attn_bench.records.values import Environment


def folder_for(out: Path | None, what: str, environment: Environment) -> Path:
    """The folder asked for, or a new one under results/; raises FileError.

    Called before anything is measured, so that nothing is measured that could not be kept.
    """
    return run_folder(Path("results"), what, environment) if out is None else make_folder(out)


def run_folder(root: Path, what: str, environment: Environment) -> Path:
    """Makes a new folder results/<date>_<hardware>_<what>, numbered if there is one already."""
    return new_folder(root, f"{datetime.now(UTC):%Y-%m-%d}_{hardware(environment)}_{what}")


def records_in(folder: Path, tell: Tell) -> Path:
    """The file of a run's records, whether there is one or not; of two the newer.

    tell: hears of the other.
    """
    plain, zipped = folder / "records.jsonl", folder / "records.jsonl.gz"
    if not (plain.exists() and zipped.exists()):
        return zipped if zipped.exists() else plain
    # a run into the folder of one whose records were packed since
    newer, older = plain, zipped
    if zipped.stat().st_mtime > plain.stat().st_mtime:
        newer, older = zipped, plain
    tell(
        f"{folder} has two files of records: the newer is read, {newer.name}; to see the other, "
        f"give {older}."
    )
    return newer


def hardware(environment: Environment) -> str:
    """A short name for folders: 4xH200, or cpu."""
    gpu = environment.get("gpu")
    if not gpu:
        return "cpu"
    model = str(gpu).removeprefix("NVIDIA ").replace(" ", "-").replace("/", "-")
    return f"{environment['gpu_count']}x{model}"
