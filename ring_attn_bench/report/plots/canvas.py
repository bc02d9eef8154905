"""A figure of panels with its title, legend and footnote; no screen, no global state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Literal
from warnings import catch_warnings, filterwarnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ring_attn_bench.records import files
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import heading

GRID = "#DDDDDD"
GREY = "#555555"
BEHIND = "#C4C4C4"
"""Of lines that stand behind others."""
_DPI = 150
_COLOURS = 255
_LETTERS_PER_INCH = 14.5


def panels(
    rows: Sequence[ReportRow],
    title: str,
    shape: tuple[int, int],
    size: tuple[float, float],
    share: Literal["none", "all"] = "none",
    words: str = "",
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of lines x columns panels, each of that width and height in inches.

    words: what its rows share, where that is not all that rows of one shape do.
    """
    down, across = shape
    figure = Figure(
        figsize=(max(size[0] * across, 7.0), size[1] * down + 0.8), dpi=_DPI, layout="constrained"
    )
    text = f"{title}\n{folded(figure, words or heading(rows))}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, linespacing=1.4)
    grid = figure.subplots(down, across, squeeze=False, sharey=share)
    for axes in grid.flat:
        plain(axes)
    return figure, [list(line) for line in grid]


def keep_height(figure: Figure, axes: Axes, inches: float) -> None:
    """Makes the figure higher where its panels, each as high as these axes, are lower than that.

    Titles and footnotes have as many lines as they need, and the layout takes them from the panels:
    three and two lines left 0.02 inches of a panel of one bar.
    """
    as_they_are(figure)
    with any_letter():
        figure.draw_without_rendering()
    place = axes.get_subplotspec()
    assert place is not None  # it is one of a grid
    height = figure.get_figheight()
    lacking = inches - axes.get_position().height * height
    figure.set_figheight(height + place.get_gridspec().nrows * max(lacking, 0.0))


def plain(axes: Axes) -> None:
    """No box, and a grid that stays behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def grid_of(rows: Sequence[ReportRow]) -> list[list[tuple[str, list[ReportRow]]]]:
    """Title and rows of each panel: a line for each mask, a column for each direction."""
    masks = [causal for causal in (True, False) if any(row.causal is causal for row in rows)]
    directions = [
        direction for direction in Direction if any(row.direction is direction for row in rows)
    ]
    return [[_panel(rows, causal, direction) for direction in directions] for causal in masks]


def _panel(
    rows: Sequence[ReportRow], causal: bool, direction: Direction
) -> tuple[str, list[ReportRow]]:
    shown = [row for row in rows if row.causal is causal and row.direction is direction]
    mask = "causal" if causal else "full"
    return f"{direction.value.replace('_', ' + ')}, {mask}", shown


def pairs(
    axes: Sequence[Sequence[Axes]], grid: Sequence[Sequence[tuple[str, list[ReportRow]]]]
) -> Iterator[tuple[Axes, str, list[ReportRow]]]:
    """Each panel with its title and rows."""
    for line, contents in zip(axes, grid, strict=True):
        for panel, (title, rows) in zip(line, contents, strict=True):
            yield panel, title, rows


def footnote(figure: Figure, text: str) -> None:
    """Small print below the panels."""
    if text:
        shown = "\n".join(folded(figure, line) for line in text.splitlines())
        figure.supxlabel(shown, x=0.01, ha="left", fontsize=7.5, color=GREY, linespacing=1.4)


def folded(figure: Figure, text: str) -> str:
    """The text in lines as wide as the figure."""
    return fill(text, int(figure.get_figwidth() * _LETTERS_PER_INCH))


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture, making its folder."""
    drawn, packed = BytesIO(), BytesIO()
    as_they_are(figure)
    with any_letter():
        figure.savefig(drawn)
    figure.set_layout_engine("none")  # found once, it stays: the SVG of it is the same picture
    # a palette holds all that lines on white need, in a third of the bytes: reports travel; this
    # way of choosing it moves no backend's colour by more than 5 of 255, median cut did by 70
    few = (
        Image.open(drawn)
        .convert("RGB")
        .quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    few.save(packed, "png", optimize=True)
    files.write(path, packed.getvalue())
    return path


def as_they_are(figure: Figure) -> None:
    """Words are words, and no formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names may have a dollar, and nothing here is a formula


@contextmanager
def any_letter() -> Iterator[None]:
    """A letter that the font has not got is a box, of which nobody need be warned."""
    with catch_warnings():
        filterwarnings("ignore", r"(?s)Glyph \d+ .*missing from font", UserWarning)
        yield
