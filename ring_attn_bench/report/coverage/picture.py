"""coverage.png: the matrix as coloured cells with symbols, for the colour-blind too."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.coverage.matrix import SYMBOLS, Matrix, title
from ring_attn_bench.report.plots.canvas import GREY, save

# Okabe and Ito's colours, and lightness besides: pale for refused, dark for wrong
FILLS = {
    Status.OK: "#BFE5D8",
    Status.UNSUPPORTED: "#F3F3F3",
    Status.OOM: "#F0E442",
    Status.ERROR: "#E69F00",
    Status.TIMEOUT: "#CC79A7",
    Status.WRONG: "#C2410C",
}
INKS = {
    Status.OK: "#005C43",
    Status.UNSUPPORTED: "#9A9A9A",
    Status.OOM: "#000000",
    Status.ERROR: "#000000",
    Status.TIMEOUT: "#000000",
    Status.WRONG: "#FFFFFF",
}
INK = "#222222"
_DPI = 150
_CELL = 0.205  # inches, the height of a line
_WIDE = 0.62  # inches, the width of a column
_LABELS = 2.75  # inches, for the features' names
_HEAD, _FOOT = 1.25, 0.9  # inches, for the backends' names above, and what is below


def draw(matrix: Matrix, path: Path) -> Path:
    """Writes the matrix as a picture to the path."""
    lines = sum(len(features) + 1 for _, features in matrix.chapters)
    columns = len(matrix.backends)
    width = max(_LABELS + _WIDE * columns + 0.45, 5.4)
    figure = Figure((width, _HEAD + _CELL * lines + _FOOT), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # inches, from the top left corner of the matrix
    axes.set_xlim(-_LABELS, width - _LABELS)
    axes.set_ylim(_CELL * lines + _FOOT, -_HEAD)
    _heads(axes, matrix)
    at = 0.0
    for chapter, features in matrix.chapters:
        at = _chapter(axes, matrix, chapter, features, at)
    _foot(axes, matrix, at, width)
    return save(figure, path)


def _heads(axes: Axes, matrix: Matrix) -> None:
    axes.text(
        0.12 - _LABELS, -_HEAD + 0.16, "What each backend can do", fontsize=11, color=INK,
        va="top", weight="bold",
    )  # fmt: skip
    places = sorted({f"{x.device}, torch {x.torch}" for x in matrix.findings})
    axes.text(
        0.12 - _LABELS, -_HEAD + 0.42, fill("; ".join(places), 44), fontsize=7.5, color=GREY,
        va="top",
    )  # fmt: skip
    for column, backend in enumerate(matrix.backends):
        axes.text(
            (column + 0.42) * _WIDE, -0.05, backend, rotation=38, rotation_mode="anchor",
            fontsize=8.5, color=INK, ha="left", va="bottom",
        )  # fmt: skip


def _chapter(
    axes: Axes, matrix: Matrix, chapter: str, features: tuple[str, ...], at: float
) -> float:
    """Draws a chapter from a height on; returns where it ends."""
    axes.text(
        0.12 - _LABELS, at + _CELL * 0.62, chapter, fontsize=8, color=GREY, weight="bold",
        va="center",
    )  # fmt: skip
    right = _WIDE * len(matrix.backends)
    axes.plot([0.12 - _LABELS, right], [at + 0.03, at + 0.03], color="#CCCCCC", linewidth=0.6)
    for number, feature in enumerate(features, start=1):
        middle = at + _CELL * (number + 0.5)
        axes.text(0.24 - _LABELS, middle, title(feature), fontsize=8, color=INK, va="center")
        for column, backend in enumerate(matrix.backends):
            _cell(axes, matrix.cell(backend, feature), column * _WIDE, middle)
    return at + _CELL * (len(features) + 1)


def _cell(
    axes: Axes, both: tuple[Finding | None, Finding | None], left: float, middle: float
) -> None:
    """One box where both directions fare alike, else one for each."""
    forward, backward = (None if x is None else x.verdict for x in both)
    if forward is backward:
        _box(axes, forward, left, _WIDE, middle)
        return
    _box(axes, forward, left, _WIDE / 2, middle)
    _box(axes, backward, left + _WIDE / 2, _WIDE / 2, middle)


def _box(axes: Axes, status: Status | None, left: float, width: float, middle: float) -> None:
    if status is None:
        return
    gap, corner = 0.02, 0.03
    axes.add_patch(
        FancyBboxPatch(
            (left + gap + corner, middle - _CELL / 2 + gap + corner),
            width - 2 * (gap + corner), _CELL - 2 * (gap + corner),
            boxstyle=f"round,pad={corner}", facecolor=FILLS[status], linewidth=0,
        )
    )  # fmt: skip
    axes.text(
        left + width / 2, middle, SYMBOLS[status], fontsize=8.5, color=INKS[status],
        ha="center", va="center_baseline",
        weight="bold" if status.is_failure else "normal",
    )  # fmt: skip


def _foot(axes: Axes, matrix: Matrix, at: float, width: float) -> None:
    """What the symbols mean: those that there are."""
    left, middle = 0.12 - _LABELS, at + 0.3
    shown = {finding.verdict for finding in matrix.findings}
    for status in Status:
        if status in shown:
            _box(axes, status, left, _WIDE / 2, middle)
            axes.text(
                left + _WIDE / 2 + 0.06, middle, status.value, fontsize=8, color=INK, va="center"
            )
            left += _WIDE / 2 + 0.2 + 0.075 * len(status.value)
    notes = ["Where a cell has two halves, the left one is forward and the right one backward."]
    if matrix.absent:
        notes.append(f"Not on this machine: {', '.join(matrix.absent)}.")
    axes.text(
        0.12 - _LABELS, middle + 0.17, "\n".join(notes), fontsize=7.5, color=GREY, va="top",
        linespacing=1.5,
    )  # fmt: skip
