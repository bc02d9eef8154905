"""Where the time goes: a bar for each contestant, in parts, the worst on top."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import holder, label, varying
from ring_attn_bench.report.parts import COLOURS, NAMES, REST, lost, parts
from ring_attn_bench.report.plots.canvas import GRID, footnote, grid_of, keep_height, panels
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import digits, tokens

_WIDTH, _BAR, _LETTER = 2.9, 0.21, 0.075
_LEGEND = 3.6
"""Inches: of a panel, a bar, a letter of a name, and the legend."""
_LENGTHS = 3
"""At most: of more the shortest, one between, and the longest."""
_HATCHES = ("", "xx", "--", "//", "\\\\")
"""Told apart without colours too; those of NAMES."""


def draw_spent(rows: Sequence[ReportRow], _: Style) -> Figure | None:
    """Panels beside each other by direction and mask, below each other by length; None without
    a row that was timed beside one call of its kernel."""
    shown = [row for row in rows if parts(row) is not None]
    if not shown:
        return None
    every = sorted({row.seqlen_per_gpu for row in shown})
    lengths = every if len(every) <= _LENGTHS else [every[0], every[len(every) // 2], every[-1]]
    columns = [panel for line in grid_of(shown) for panel in line if panel[1]]
    who = varying(shown)
    names = _order(shown, who)
    shape, size = (len(lengths), len(columns)), (_WIDTH, _BAR * len(names) + 0.6)
    title = f"Where the time goes, in percent of it, by tokens per {holder(shown)}"
    figure, axes = panels(shown, title, shape, size)
    figure.set_figwidth(figure.get_figwidth() + _LETTER * max(map(len, names)) + _LEGEND)
    for line, length in zip(axes, lengths, strict=True):
        told = names  # beside the first panel of a line
        for panel, (heading, of_kind) in zip(line, columns, strict=True):
            by_name = {label(x, who): x for x in of_kind if x.seqlen_per_gpu == length}
            panel.set_visible(bool(by_name))
            panel.set_title(f"{heading}, {tokens(length)}", fontsize=9)
            _draw(panel, [by_name.get(name) for name in names])
            _axes(panel, told)
            told = [""] * len(names) if by_name else told
    _legend(figure, apart=any(row.link_ms is not None for row in shown))
    footnote(figure, _note(every, lengths))
    keep_height(figure, axes[0][0], _BAR * len(names))
    return figure


def _order(rows: Sequence[ReportRow], who: Sequence[str]) -> list[str]:
    """Contestants by what they lose on the average; the worst last, which is on top."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(label(row, who), []).append(lost(row) or 0.0)
    return sorted(shares, key=lambda name: (mean(shares[name]), name))


def _draw(axes: Axes, rows: Sequence[ReportRow | None]) -> None:
    for place, row in enumerate(rows):
        found = None if row is None else parts(row)
        if row is None or found is None:
            continue
        looks = [*zip(COLOURS, _HATCHES, strict=True), (GRID, "")]
        start = 0.0
        for share, (colour, hatch) in zip((*found.shares, found.rest), looks, strict=True):
            if share:
                axes.barh(
                    place, 100 * share, left=start, height=0.75, color=colour, hatch=hatch,
                    edgecolor="white", linewidth=0,
                )  # fmt: skip
            start += 100 * share
        axes.text(101, place, f"{digits(row.latency_ms)} ms", va="center", fontsize=7)


def _axes(axes: Axes, names: Sequence[str]) -> None:
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 128)  # room for the times
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(range(len(names)), names)


def _legend(figure: Figure, *, apart: bool) -> None:
    """apart: whether communication is in two parts, by what the link takes."""
    names = NAMES if apart else (*NAMES[:3], "communication")
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=name)
        for name, colour, hatch in zip(names, COLOURS, _HATCHES, strict=False)
    ]
    handles.append(Patch(facecolor=GRID, label=REST))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def _note(every: Sequence[int], lengths: Sequence[int]) -> str:
    left = [tokens(length) for length in every if length not in lengths]
    words = "A part that is within noise, with 95 % confidence, is none. No bar: not measured so."
    return f"{words} In the table alone: {', '.join(left)} tokens." if left else words
