"""One cell of the coverage matrix, and coverage.csv, which holds them all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ring_attn_bench.records import files, sheets
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Frozen, Text


class Finding(Frozen):
    """How a backend fared with a feature in a direction, and on what.

    reason: why it is not ok; for ok, in how many blocks it was computed if that is not one.
    version: the backend's. device: the GPU, or the CPU. torch: its version.
    """

    backend: str
    feature: str
    direction: Direction
    verdict: Status
    """Its status; files call it so, here and of outcomes."""
    reason: Text = ""
    version: Text = ""
    device: Text = ""
    torch: Text = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the cell."""
        return self.backend, self.feature, self.direction.value


COLUMNS = tuple(Finding.model_fields)


def write(findings: Iterable[Finding], path: Path) -> None:
    """Writes them all, in that order; raises FileError."""
    lines = ([str(getattr(finding, name)) for name in COLUMNS] for finding in findings)
    files.write(path, sheets.text(COLUMNS, lines))


def read(path: Path) -> tuple[Finding, ...]:
    """The findings of such a file, or of the one in such a folder; raises FileError."""
    return sheets.values(path, "coverage.csv", "findings", Finding.model_validate)
