"""Errors by tensor and backend: beside plain PyTorch's, and beside what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ring_attn_bench.records.status import Status
from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import TENSORS, ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.report.plots.canvas import GREY, footnote, panels
from ring_attn_bench.report.plots.error_rows import Ratio, draw_error_rows
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.style import Style

_TITLE = "Errors against the float64 oracle"
_CROWD = 8
"""Backends: of more, points stand in each other's way."""
_PANEL = (4.6, 3.2)
_FLOOR = 1e-3
"""A ratio of 0 cannot be drawn on a logarithmic axis; it and all smaller ones are drawn here."""
_WIDTH = 0.8
"""Of the five tensors' slots, how much the backends' points fill."""


def draw_errors(rows: Sequence[ReportRow], style: Style) -> Figure | None:
    """A point for each record and tensor; None if no record has errors."""
    compared = [
        row for row in rows if any(ratio.of_bound is not None for ratio in row.ratios.values())
    ]
    if not compared:
        return None
    ratios: dict[str, Ratio] = {
        "rmse / rmse of PyTorch in the same precision": lambda ratio: ratio.vs_pytorch,
        "share of the allowed error (max_abs or rmse)": lambda ratio: ratio.of_bound,
    }
    if len({row.backend for row in compared}) > _CROWD:
        figure = draw_error_rows(compared, style, _TITLE, ratios, _FLOOR)
        footnote(figure, _small_print(compared))
        return figure
    figure, axes = panels(compared, _TITLE, (1, 2), _PANEL)
    left, right = axes[0]
    for panel, (what, ratio) in zip(axes[0], ratios.items(), strict=True):
        _draw(panel, compared, style, ratio)
        panel.set_ylabel(what, fontsize=8)
    left.set_title("1: as exact as plain PyTorch", fontsize=9)
    right.set_title("1: the bound; above it is wrong", fontsize=9)
    legend(figure, compared, style, lines=False)
    footnote(figure, _small_print(compared))
    return figure


def _draw(axes: Axes, rows: Sequence[ReportRow], style: Style, ratio: Ratio) -> None:
    backends = group(rows, lambda row: row.backend)
    for place, of_backend in enumerate(backends.values()):
        shift = _WIDTH * ((place + 0.5) / len(backends) - 0.5)
        for wrong in (False, True):
            points = [row for row in of_backend if (row.status is Status.WRONG) is wrong]
            _points(axes, points, shift, style, ratio)
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.4) / 1.1, max(high, 2.5) * 1.1)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(TENSORS)), TENSORS)
    axes.set_xlim(-0.5, len(TENSORS) - 0.5)
    axes.grid(visible=False, axis="x")


def _points(
    axes: Axes, rows: Sequence[ReportRow], shift: float, style: Style, ratio: Ratio
) -> None:
    """Of one backend; those of wrong records have a ring around them."""
    places = [
        (place + shift, max(value, _FLOOR))
        for row in rows
        for place, tensor in enumerate(TENSORS)
        if (value := ratio(row.ratios[tensor])) is not None
    ]
    if not places:
        return
    across, up = zip(*places, strict=True)
    theirs = is_peer(rows[0].backend)
    axes.plot(
        across, up, linestyle="", color=style.colour(rows[0]), marker=style.marker(rows[0]),
        markersize=4.5, alpha=0.6, markeredgewidth=1 if theirs else 0,
        fillstyle="none" if theirs else "full",
    )  # fmt: skip
    if rows[0].status is Status.WRONG:
        axes.plot(
            across, up, linestyle="", marker="o", markersize=10, fillstyle="none", color="#CC0000"
        )


def _small_print(rows: Sequence[ReportRow]) -> str:
    text = "A point is one record: a contestant, length, mask and direction."
    if any(row.status is Status.WRONG for row in rows):
        text += " Ringed: records whose result is wrong."
    if any(_clipped(row) for row in rows):
        text += f" Ratios below {_FLOOR:g} are drawn there."
    endless = sum(_is_endless(row) for row in rows)
    if endless:
        text += f" Not drawn: {endless} with values that are not finite."
    return text


def _clipped(row: ReportRow) -> bool:
    ratios = [(ratio.vs_pytorch, ratio.of_bound) for ratio in row.ratios.values()]
    return any(value is not None and value < _FLOOR for pair in ratios for value in pair)


def _is_endless(row: ReportRow) -> bool:
    return any(row.errors[tensor].max_abs is None for tensor in row.judged)
