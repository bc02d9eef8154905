"""TB/s of K and V read over a cache, by how much there is; a panel for each kind of cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import group
from ring_attn_bench.report.over_cache import kind
from ring_attn_bench.report.plots.canvas import GREY, footnote, panels
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import digits
from ring_attn_bench.text.shapes import batch

_PANEL = (2.6, 2.4)
_ACROSS = 4
"""Panels side by side at most."""
_ROOM = 1.08
_LETTERS = 34
"""Of a line over a panel."""


def draw_reading(rows: Sequence[ReportRow], style: Style, words: str) -> Figure | None:
    """The rows of one family, which words says; None without any speed."""
    timed = [row for row in rows if row.read_tbs is not None]
    if not timed:
        return None
    timed.sort(key=lambda row: row.batch)
    several = timed[0].batch < timed[-1].batch
    kinds = group(timed, lambda row: _kind(row, several))
    shape = ceil(len(kinds) / _ACROSS), min(len(kinds), _ACROSS)
    figure, axes = panels(rows, "K and V read per second", shape, _PANEL, "all", words)
    every = [panel for line in axes for panel in line]
    ceiling = max((row.read_gbs or 0.0 for row in timed), default=0.0) / 1e3
    sizes = [row.cache_mib or 0.0 for row in timed]
    for panel, (title, alike) in zip(every, kinds.items(), strict=False):
        panel.set_title(title, fontsize=8)
        _draw(panel, alike, style)
        if ceiling:
            panel.axhline(ceiling, color=GREY, linestyle=":", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
        ticks = sorted({row.cache_mib or 0.0 for row in alike})
        panel.set_xticks(ticks, [digits(size) for size in ticks], rotation=90)
        panel.minorticks_off()
        panel.set_xlabel("MiB of K and V", fontsize=8)
    for panel in every[len(kinds) :]:
        panel.set_visible(False)
    for line in axes:
        line[0].set_ylabel("TB/s", fontsize=8)
    axes[0][0].set_ylim(0, _ROOM * max(ceiling, *(row.read_tbs or 0.0 for row in timed)))
    legend(figure, timed, style)
    how = (
        "in a CUDA graph" if all(row.graph_ms is not None for row in timed) else "called in a loop"
    )
    dotted = " Dotted: a maximum over a large tensor, by torch." if ceiling else ""
    footnote(figure, f"By the median time {how}.{dotted}")
    return figure


def _kind(row: ReportRow, several: bool) -> str:
    """1 query, page 16; of several batch sizes with its own: as many MiB are read otherwise in 64
    rows of 8K tokens than in 8 of 64K, and one line through both would go up and down.
    """
    queries = "1 query" if row.queries == 1 else f"{row.queries} queries"
    size = (batch(row.batch),) if several else ()
    return fill(", ".join((*size, queries, *kind(row))), _LETTERS)


def _draw(panel: Axes, rows: Sequence[ReportRow], style: Style) -> None:
    """A line for each contestant, from little to much."""
    for alike in group(rows, lambda row: row.contestant).values():
        ordered = sorted(alike, key=lambda row: row.cache_mib or 0.0)
        first = ordered[0]
        panel.plot(
            [row.cache_mib or 0.0 for row in ordered], [row.read_tbs or 0.0 for row in ordered],
            color=style.colour(first), marker=style.marker(first), fillstyle=style.fill(first),
            markersize=style.size(first), linewidth=1.3,
        )  # fmt: skip
