"""Useful TFLOP/s by sequence length, a panel for each mask and direction."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.digits import tokens
from ring_attn_bench.report.groups import WHO, device, group, holder, label
from ring_attn_bench.report.plots.bars import draw_bars
from ring_attn_bench.report.plots.canvas import footnote, grid_of, pairs, panels
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.missing import missing
from ring_attn_bench.report.plots.style import Style

_PANEL = (3.5, 2.7)


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
    grid = grid_of(rows)
    shape = (len(grid), len(grid[0]))
    figure, axes = panels(rows, "Throughput by sequence length", shape, _PANEL, share="all")
    for panel, title, shown in pairs(axes, grid):
        panel.set_title(title, fontsize=9)
        _draw(panel, shown, lengths, style)
        _length_axis(panel, lengths)
    for line in axes:
        line[0].set_ylabel(unit, fontsize=8)
    for panel in axes[-1]:
        panel.set_xlabel(f"tokens per {holder(rows)}", fontsize=8)
    axes[0][0].set_ylim(0, 1.08 * max(row.tflops_per_gpu or 0.0 for row in rows))
    legend(figure, rows, style)
    footnote(figure, _small_print(rows))
    return figure


def _draw(axes: Axes, rows: Sequence[ReportRow], lengths: Sequence[int], style: Style) -> None:
    """One line for each contestant, broken where it has no figure, measured or not."""
    for of_contestant in group(rows, lambda row: label(row, WHO)).values():
        first, by_length = of_contestant[0], {row.seqlen_per_gpu: row for row in of_contestant}
        rates = [_rate_or_nan(by_length.get(length)) for length in lengths]
        sides = [interval(by_length.get(length)) for length in lengths]
        axes.errorbar(
            lengths, rates, yerr=tuple(zip(*sides, strict=True)),
            color=style.colour(first), marker=style.marker(first), linestyle=style.line(first),
            fillstyle=style.fill(first), markersize=style.size(first), linewidth=1.3, capsize=2,
            elinewidth=1,
        )  # fmt: skip
        _stubs(axes, lengths, rates, first, style)


def _stubs(
    axes: Axes, lengths: Sequence[int], rates: Sequence[float], row: ReportRow, style: Style
) -> None:
    """A figure between gaps has no line to tell its partition by: it gets a short one."""
    around = [nan, *rates, nan]
    for at, before, rate, after in zip(lengths, around, rates, around[2:], strict=False):
        if not isnan(rate) and isnan(before) and isnan(after):
            axes.plot(
                [at / 1.2, at * 1.2], [rate, rate],
                color=style.colour(row), linestyle=style.line(row), linewidth=1.3,
            )  # fmt: skip


def _rate_or_nan(row: ReportRow | None) -> float:
    return nan if row is None or row.tflops_per_gpu is None else row.tflops_per_gpu


def interval(row: ReportRow | None) -> tuple[float, float]:
    """How far the rate's 95 % interval reaches down and up; the slowest end is the lowest rate."""
    if row is None:
        return 0.0, 0.0
    rate, latency = row.tflops_per_gpu, row.latency_ms
    if rate is None or latency is None or not row.latency_ms_lo or not row.latency_ms_hi:
        return 0.0, 0.0
    return rate - rate * latency / row.latency_ms_hi, rate * latency / row.latency_ms_lo - rate


def _rate(row: ReportRow) -> float | None:
    return row.tflops_per_gpu


def _length_axis(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [tokens(length) for length in lengths])
    # said, not left to autoscaling, which a panel with a single length throws off
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    axes.minorticks_off()


def _small_print(rows: Sequence[ReportRow]) -> str:
    bars = "Bars: 95 % confidence interval of the median."
    return "\n".join(text for text in (bars, missing(rows)) if text)
