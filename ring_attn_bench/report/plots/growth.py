"""How errors grow with the number of ranks, tensor by tensor, beside PyTorch's and no ring's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import TENSORS, Ratios, ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.report.plots.canvas import GREY, footnote, panels
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.style import Style

_PANEL = (1.9, 2.1)
_SMALL_PRINT = "The worst record of each backend and size. Grey line: 1, as exact as the other."

Ratio = Callable[[Ratios], float | None]
_RATIOS: Mapping[str, Ratio] = {
    "rmse / PyTorch's": lambda ratio: ratio.vs_pytorch,
    "rmse / no ring": lambda ratio: ratio.vs_one_gpu,
}


def draw_growth(rows: Sequence[ReportRow], style: Style, shared: str) -> Figure | None:
    """Of rings that differ in size alone; None of one size. shared: what they share, in words."""
    compared = [row for row in rows if row.oracle]
    sizes = sorted({row.world_size for row in compared})
    if len(sizes) < 2:
        return None
    title = "Errors by the number of ranks"
    figure, axes = panels(compared, title, (len(_RATIOS), len(TENSORS)), _PANEL, words=shared)
    for line, (what, ratio) in zip(axes, _RATIOS.items(), strict=True):
        line[0].set_ylabel(what, fontsize=8)
        for panel, tensor in zip(line, TENSORS, strict=True):
            panel.set_title(tensor, fontsize=9)
            _draw(panel, compared, sizes, tensor, ratio, style)
    for panel in axes[-1]:
        panel.set_xlabel("ranks", fontsize=8)
    legend(figure, compared, style, lines=False)
    footnote(figure, _SMALL_PRINT)
    return figure


def _draw(
    axes: Axes,
    rows: Sequence[ReportRow],
    sizes: Sequence[int],
    tensor: str,
    ratio: Ratio,
    style: Style,
) -> None:
    for of_backend in group(rows, lambda row: row.backend).values():
        first = of_backend[0]
        axes.plot(
            sizes, [_worst(of_backend, size, tensor, ratio) for size in sizes],
            color=style.colour(first), marker=style.marker(first), markersize=4.5, linewidth=1.2,
            fillstyle="none" if is_peer(first.backend) else "full",
        )  # fmt: skip
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.minorticks_off()
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=7)


def _worst(rows: Sequence[ReportRow], size: int, tensor: str, ratio: Ratio) -> float:
    ratios = [ratio(row.ratios[tensor]) for row in rows if row.world_size == size]
    return max((x for x in ratios if x is not None), default=nan)
