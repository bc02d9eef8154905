"""Rates over the lengths: one line for each contestant, with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

from matplotlib.axes import Axes

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import WHO, group, label
from ring_attn_bench.report.plots.canvas import BEHIND
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import tokens


def draw_lines(axes: Axes, rows: Sequence[ReportRow], lengths: Sequence[int], style: Style) -> None:
    """One line for each contestant, broken where it has no figure, measured or not."""
    for of_contestant in group(rows, lambda row: label(row, WHO)).values():
        first, rates = of_contestant[0], _rates(of_contestant, lengths)
        by_length = {row.seqlen_per_gpu: row for row in of_contestant}
        sides = [interval(by_length.get(length)) for length in lengths]
        axes.errorbar(
            lengths, rates, yerr=tuple(zip(*sides, strict=True)),
            color=style.colour(first), marker=style.marker(first), linestyle=style.line(first),
            fillstyle=style.fill(first), markersize=style.size(first), linewidth=1.3, capsize=2,
            elinewidth=1,
        )  # fmt: skip
        _stubs(axes, lengths, rates, first, style)


def draw_behind(axes: Axes, rows: Sequence[ReportRow], lengths: Sequence[int]) -> None:
    """The same lines, thin and grey: what others do."""
    for of_contestant in group(rows, lambda row: label(row, WHO)).values():
        rates = _rates(of_contestant, lengths)
        axes.plot(lengths, rates, color=BEHIND, linewidth=0.8, zorder=1)


def length_axis(axes: Axes, lengths: Sequence[int]) -> None:
    """Lengths by powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [tokens(length) for length in lengths])
    # said, not left to autoscaling, which a panel with a single length throws off
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    axes.minorticks_off()


def interval(row: ReportRow | None) -> tuple[float, float]:
    """How far the rate's 95 % interval reaches down and up; the slowest end is the lowest rate."""
    if row is None:
        return 0.0, 0.0
    rate, latency = row.tflops_per_gpu, row.latency_ms
    if rate is None or latency is None or not row.latency_ms_lo or not row.latency_ms_hi:
        return 0.0, 0.0
    return rate - rate * latency / row.latency_ms_hi, rate * latency / row.latency_ms_lo - rate


def _rates(rows: Sequence[ReportRow], lengths: Sequence[int]) -> list[float]:
    """By length; nan where there is no figure."""
    by_length = {row.seqlen_per_gpu: row.tflops_per_gpu for row in rows}
    return [nan if (rate := by_length.get(length)) is None else rate for length in lengths]


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
