"""Useful TFLOP/s by sequence length, a panel for each mask and direction."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import WHO, device, group, holder, label
from ring_attn_bench.report.plots.bars import draw_bars
from ring_attn_bench.report.plots.canvas import footnote, grid_of, pairs, panels
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.lines import draw_lines, interval, length_axis
from ring_attn_bench.report.plots.missing import missing
from ring_attn_bench.report.plots.multiples import draw_multiples, not_shown
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import tokens

_PANEL = (3.5, 2.7)
_CROWD = 6
"""Contestants: lines of more of them cross too often to be followed."""


def draw_throughput(rows: Sequence[ReportRow], style: Style) -> Figure | None:
    """Lines over the lengths, or bars if there is only one; None without any speed."""
    if all(row.tflops_per_gpu is None for row in rows):
        return None
    lengths = sorted({row.seqlen_per_gpu for row in rows})
    unit = f"useful TFLOP/s per {device(rows)}"
    if len(lengths) == 1:
        title = f"Throughput at {tokens(lengths[0])} tokens per {holder(rows)}"
        note = "Thin lines: 95 % confidence interval of the median."
        return draw_bars(rows, style, title, unit, _rate, interval, note=note)
    grid, title = grid_of(rows), "Throughput by sequence length"
    if len(group(rows, lambda row: label(row, WHO))) > _CROWD:
        figure = draw_multiples(rows, style, title, unit, lengths)
        footnote(figure, f"{_small_print(rows)}\nGrey: all others.{not_shown(rows)}")
        return figure
    shape = (len(grid), len(grid[0]))
    figure, axes = panels(rows, title, shape, _PANEL, share="all")
    for panel, heading, shown in pairs(axes, grid):
        panel.set_title(heading, fontsize=9)
        draw_lines(panel, shown, lengths, style)
        length_axis(panel, lengths)
    for line in axes:
        line[0].set_ylabel(unit, fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel(f"tokens per {holder(rows)}", fontsize=8)
    axes[0][0].set_ylim(0, 1.08 * max(row.tflops_per_gpu or 0.0 for row in rows) or 1.0)
    legend(figure, rows, style)
    footnote(figure, _small_print(rows))
    return figure


def _rate(row: ReportRow) -> float | None:
    return row.tflops_per_gpu


def _small_print(rows: Sequence[ReportRow]) -> str:
    bars = "Bars: 95 % confidence interval of the median."
    return "\n".join(text for text in (bars, missing(rows)) if text)
