"""Horizontal bars, one for each contestant, with a word where there is no figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import label, varying
from ring_attn_bench.report.plots.canvas import GREY, footnote, grid_of, keep_height, pairs, panels
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import digits

Value = Callable[[ReportRow], float | None]
Interval = Callable[[ReportRow], tuple[float, float]]
_WIDTH = 3.2
_BAR = 0.21
_LETTER = 0.075
"""Inches: of a contestant's name."""
_UNIT_LETTERS = 44
_TICKS = 4
"""Figures below a panel: more of them touch, where they are as long as 0.0025."""


def draw_bars(
    rows: Sequence[ReportRow],
    style: Style,
    title: str,
    unit: str,
    value: Value,
    interval: Interval | None = None,
    more: Value | None = None,
    note: str = "",
) -> Figure:
    """A panel for each mask and direction, all in the order of the first, the largest on top.

    more: a second part, hollow, where a bar ends. note: below the panels.
    """
    who = varying(rows)
    grid = grid_of(rows)
    names = _order(rows, who, value)
    shape, size = (len(grid), len(grid[0])), (_WIDTH, _BAR * len(names) + 0.7)
    figure, axes = panels(rows, title, shape, size)
    # names stand beside the panels, and not at their cost
    figure.set_figwidth(figure.get_figwidth() + _LETTER * max(map(len, names)))
    for panel, heading, shown in pairs(axes, grid):
        panel.set_title(heading, fontsize=9)
        by_name = {label(row, who): row for row in shown}
        _draw(panel, [by_name.get(name) for name in names], style, value, interval, more)
    _label(axes, names, unit)
    footnote(figure, note)
    keep_height(figure, axes[0][0], _BAR * len(names))
    return figure


def _draw(
    axes: Axes,
    rows: Sequence[ReportRow | None],
    style: Style,
    value: Value,
    interval: Interval | None,
    more: Value | None,
) -> None:
    sides = [interval(row) if interval and row else (0.0, 0.0) for row in rows]
    parts = [more(row) if more and row else None for row in rows]
    ends = [
        (value(row) or 0.0) + up + (part or 0.0)
        for row, (_, up), part in zip(rows, sides, parts, strict=True)
        if row
    ]
    top = max(ends, default=0.0)
    # room for the figures beside the bars
    axes.set_xlim(0, (1.45 if any(part is not None for part in parts) else 1.25) * top or 1.0)
    for place, (row, (down, up), part) in enumerate(zip(rows, sides, parts, strict=True)):
        if row is None:
            continue
        length = value(row)
        if length is None:
            axes.text(0.01 * top, place, f" {_word(row)}", va="center", fontsize=7, color=GREY)
            continue
        axes.barh(
            place, length, height=0.75, color=style.colour(row),
            hatch=style.hatch(row), edgecolor="white", linewidth=0,
        )  # fmt: skip
        if down or up:
            axes.errorbar(length, place, xerr=[[down], [up]], color=GREY, capsize=2)
        figures = digits(length)
        if part is not None:
            axes.barh(
                place, part, left=length, height=0.75, color="white",
                edgecolor=style.colour(row), linewidth=0.8,
            )  # fmt: skip
            figures += f" + {digits(part)}"
        axes.text(length + up + (part or 0.0), place, f" {figures}", va="center", fontsize=7)


def _order(rows: Sequence[ReportRow], who: Sequence[str], value: Value) -> list[str]:
    """Contestants by their figure in the first panel, then in the next."""
    figures: dict[str, list[float]] = {label(row, who): [] for row in rows}
    for line in grid_of(rows):
        for _, shown in line:
            by_name = {label(row, who): value(row) or 0.0 for row in shown}
            for name, known in figures.items():
                known.append(by_name.get(name, 0.0))
    return sorted(figures, key=lambda name: (figures[name], name))


def _word(row: ReportRow) -> str:
    if row.status is not Status.OK:
        return row.status.value
    return "interpreted" if row.interpreted else "not measured"


def _label(axes: Sequence[Sequence[Axes]], names: Sequence[str], unit: str) -> None:
    for line in axes:
        for place, panel in enumerate(line):
            panel.grid(visible=False, axis="y")
            panel.set_ylim(-0.6, len(names) - 0.4)
            panel.tick_params(axis="y", length=0)
            panel.xaxis.set_major_locator(MaxNLocator(_TICKS))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            panel.set_yticks(range(len(names)), names if place == 0 else [""] * len(names))
    for panel in axes[-1]:
        panel.set_xlabel(fill(unit, _UNIT_LETTERS), fontsize=8)
