"""Small pictures below each other, one line of them for each backend, all others in grey behind it.

For more contestants than one picture can hold: a backend is found by its name, not by its colour.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import WHO, group, holder, label, varying
from ring_attn_bench.report.plots.canvas import grid_of, panels
from ring_attn_bench.report.plots.legend import LETTER
from ring_attn_bench.report.plots.lines import draw_behind, draw_lines, length_axis
from ring_attn_bench.report.plots.style import Style

_WIDTH, _HEIGHT, _ENTRY = 2.5, 1.25, 0.17
"""Inches: of a panel, and of a line of a legend."""
_HANDLE = 0.7
_FEW = 12
"""Backends; of more, panels are lower."""


def draw_multiples(
    rows: Sequence[ReportRow], style: Style, title: str, unit: str, lengths: Sequence[int]
) -> Figure:
    """A line of panels for each backend, a panel for each mask and direction."""
    backends = group(rows, lambda row: row.backend)
    columns = _columns(rows)
    who = varying(rows)[1:]
    most = max(len({label(x, WHO) for x in of_backend}) for of_backend in backends.values())
    low = _HEIGHT if len(backends) <= _FEW else 0.8 * _HEIGHT
    size = (_WIDTH, max(low, _ENTRY * (most + 1) + 0.25))
    figure, axes = panels(rows, title, (len(backends), len(columns)), size, share="all")
    for line, (name, of_backend) in zip(axes, backends.items(), strict=True):
        for panel, (_, shown) in zip(line, columns, strict=True):
            draw_behind(panel, [row for row in shown if row.backend != name], lengths)
            draw_lines(panel, [row for row in shown if row.backend == name], lengths, style)
            length_axis(panel, lengths)
            panel.tick_params(labelsize=7)
            panel.label_outer()
        _entitle(line[-1], name, of_backend, who, style)
    letters = max(len(label(row, who)) for row in rows)
    widest = max(LETTER * letters, 1.15 * LETTER * max(map(len, backends)))
    figure.set_figwidth(figure.get_figwidth() + _HANDLE + widest)
    for panel, (heading, _) in zip(axes[0], columns, strict=True):
        panel.set_title(heading, fontsize=9)
    for panel in axes[-1]:
        panel.set_xlabel(f"tokens per {holder(rows)}", fontsize=8)
    axes[(len(axes) - 1) // 2][0].set_ylabel(unit, fontsize=8)
    axes[0][0].set_ylim(0, 1.08 * max(row.tflops_per_gpu or 0.0 for row in rows) or 1.0)
    return figure


def not_shown(rows: Sequence[ReportRow]) -> str:
    """In a sentence, which masks and directions have no panel, because they have no line."""
    shown = [heading for heading, _ in _columns(rows)]
    every = [heading for line in grid_of(rows) for heading, alike in line if alike]
    left = [heading for heading in every if heading not in shown]
    return f" Of one length, so in the tables alone: {'; '.join(left)}." if left else ""


def _entitle(
    axes: Axes, name: str, rows: Sequence[ReportRow], who: Sequence[str], style: Style
) -> None:
    """The backend's name beside its line of panels, and below it its contestants."""
    contestants = group(rows, lambda row: label(row, who)) if who else {"": list(rows)}
    handles = [_handle(first, text, style) for text, (first, *_) in contestants.items()]
    legend = axes.legend(
        handles=handles, title=name, loc="upper left", bbox_to_anchor=(1.0, 1.08), frameon=False,
        fontsize=7.5, handlelength=3, alignment="left",
    )  # fmt: skip
    legend.get_title().set(fontsize=8, fontweight="bold")


def _columns(rows: Sequence[ReportRow]) -> list[tuple[str, list[ReportRow]]]:
    """Heading and rows of each panel of a line: where somebody has a line, if anybody has."""
    every = [panel for line in grid_of(rows) for panel in line if panel[1]]
    return [panel for panel in every if _sweeps(panel[1])] or every


def _sweeps(rows: Sequence[ReportRow]) -> bool:
    timed = [row for row in rows if row.tflops_per_gpu is not None]
    return any(len(x) > 1 for x in group(timed, lambda row: label(row, WHO)).values())


def _handle(row: ReportRow, text: str, style: Style) -> Line2D:
    return Line2D(
        [], [], label=text or " ", color=style.colour(row), linestyle=style.line(row),
        marker=style.marker(row), fillstyle=style.fill(row), markersize=style.size(row),
    )  # fmt: skip
