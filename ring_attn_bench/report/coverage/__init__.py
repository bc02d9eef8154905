"""The coverage matrix as a table for a terminal, a page and a picture; made from coverage.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ring_attn_bench.records import files
from ring_attn_bench.records.finding import Finding
from ring_attn_bench.report.coverage.matrix import Matrix
from ring_attn_bench.report.matplotlib_backend import see_to_matplotlib


def write_coverage(findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Writes coverage.md and coverage.png into the folder; the paths of these files."""
    # here, so that a table for a terminal needs no matplotlib
    see_to_matplotlib()
    from ring_attn_bench.report.coverage.markdown import page
    from ring_attn_bench.report.coverage.picture import draw

    matrix = Matrix.of(findings)
    written = folder / "coverage.md", folder / "coverage.png"
    files.write(written[0], page(matrix, written[1].name))
    draw(matrix, written[1])
    return list(written)
