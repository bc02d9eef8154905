"""Errors with a line for each backend, its name beside it: for more of them than a legend tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ring_attn_bench.records.status import Status
from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import TENSORS, Ratios, ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.report.plots.canvas import GREY, panels
from ring_attn_bench.report.plots.legend import LETTER
from ring_attn_bench.report.plots.style import Style

_WIDTH, _LINE = 1.75, 0.19
"""Inches: of a panel, and of a backend's line in it."""

Ratio = Callable[[Ratios], float | None]


def draw_error_rows(
    rows: Sequence[ReportRow], style: Style, title: str, ratios: Mapping[str, Ratio], floor: float
) -> Figure:
    """Panels below each other for each ratio, by what it is called, beside each other by tensor."""
    backends = group(rows, lambda row: row.backend)
    names = list(reversed(backends))
    size = (_WIDTH, _LINE * len(names) + 0.75)
    figure, axes = panels(rows, title, (len(ratios), len(TENSORS)), size)
    figure.set_figwidth(figure.get_figwidth() + LETTER * max(map(len, names)))
    for line, (what, ratio) in zip(axes, ratios.items(), strict=True):
        line[len(TENSORS) // 2].set_xlabel(what, fontsize=8)
        for tensor, panel in zip(TENSORS, line, strict=True):
            panel.set_title(tensor, fontsize=9)
            for place, name in enumerate(names):
                _points(panel, place, backends[name], tensor, ratio, style, floor)
            _axes(panel, names if panel is line[0] else [""] * len(names))
    return figure


def _points(
    axes: Axes,
    place: int,
    rows: Sequence[ReportRow],
    tensor: str,
    ratio: Ratio,
    style: Style,
    floor: float,
) -> None:
    """Of one backend; those of wrong records have a ring around them."""
    theirs = is_peer(rows[0].backend)
    for wrong in (False, True):
        alike = [row for row in rows if (row.status is Status.WRONG) is wrong]
        ratios = [x for row in alike if (x := ratio(row.ratios[tensor])) is not None]
        if not ratios:
            continue
        across, up = [max(x, floor) for x in ratios], [place] * len(ratios)
        axes.plot(
            across, up, linestyle="", color=style.colour(rows[0]), marker=style.marker(rows[0]),
            markersize=4.5, alpha=0.7, markeredgewidth=1 if theirs else 0,
            fillstyle="none" if theirs else "full",
        )  # fmt: skip
        if wrong:
            axes.plot(
                across, up, linestyle="", marker="o", markersize=10, fillstyle="none",
                color="#CC0000",
            )  # fmt: skip


def _axes(axes: Axes, names: Sequence[str]) -> None:
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.4) / 1.1, max(high, 2.5) * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
