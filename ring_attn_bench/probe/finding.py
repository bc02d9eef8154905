"""One cell of the coverage matrix, and coverage.csv, which holds them all."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from pydantic import ValidationError

from ring_attn_bench.bench.record import Direction, Frozen
from ring_attn_bench.conformance.verdict import Verdict
from ring_attn_bench.errors import InvalidArgument


class Finding(Frozen):
    """How a backend fared with a feature in a direction, and on what.

    reason: why it is not ok; for ok, in how many blocks it was computed if that is not one.
    version: the backend's. device: the GPU, or the CPU. torch: its version.
    """

    backend: str
    feature: str
    direction: Direction
    verdict: Verdict
    reason: str = ""
    version: str = ""
    device: str = ""
    torch: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the cell."""
        return self.backend, self.feature, self.direction.value


COLUMNS = tuple(Finding.model_fields)


def write(findings: Iterable[Finding], path: Path) -> None:
    """Writes them all, in that order; the file is the old one or the new one at any time."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([str(getattr(found, name)) for name in COLUMNS] for found in findings)
    beside = path.with_suffix(".partial")
    beside.write_text(text.getvalue(), encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> tuple[Finding, ...]:
    """The findings of such a file, or of the one in such a folder; raises InvalidArgument."""
    path = path / "coverage.csv" if path.is_dir() else path
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = tuple(Finding.model_validate(cells) for cells in csv.DictReader(file))
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror or error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(
            f"{path} is no coverage.csv ({first['msg']} at {first['loc']})."
        ) from None
    if not found:
        raise InvalidArgument(f"{path} holds no findings.")
    return found
