"""Rates by the number of ranks, beside an ideal ring's: of the same tokens on each, or in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import device, direction, group, holder, mask
from ring_attn_bench.report.plots.canvas import BEHIND, footnote, panels
from ring_attn_bench.report.plots.legend import legend
from ring_attn_bench.report.plots.lines import interval
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.scaled import Line, Scaling, compared, last, lines

_WIDTH, _HEIGHT, _LINE, _LETTER = 2.7, 2.2, 0.13, 0.06
"""Inches: of a panel, of a name's line and of its letter."""
_CROWD = 6
"""Contestants: lines of more of them cross too often to be followed."""
_NAMES = 12
"""Beside a panel of the least height."""
_DOTS = (0, (1, 2))
_IDEAL = (
    "Dotted: ideal, each as fast as in the smallest ring. "
    "Bars: 95 % confidence interval of the median."
)
_CROWDED = (
    "Of each backend the contestant that is fastest in the largest ring; grey: all others, which "
    "are in the tables."
)


def draw_scaling(
    rows: Sequence[ReportRow], style: Style, shared: str, scaling: Scaling
) -> Figure | None:
    """A panel for each mask, direction and size; None where no contestant has rings of two sizes.

    Rings whose ranks share one process are not drawn: one device does the work of all of them.
    shared: what the rows share, in words.
    """
    ours = [row for row in rows if row.played != "loopback"]
    found = [_grown(alike) for alike in compared(ours, scaling)]
    panels_of = [lines_of for lines_of in found if lines_of]
    if not panels_of:
        return None
    timed = [row for lines_of in panels_of for line in lines_of for row in line.values()]
    sizes = sorted({scaling.size(row) for row in timed})
    ways = sorted({_way(row) for row in timed})
    crowded = max(map(len, panels_of)) > _CROWD
    shown = [_fastest(lines_of) if crowded else lines_of for lines_of in panels_of]
    figure, axes = _frame(timed, scaling, shared, (len(ways), len(sizes)), shown)
    limits = _Limits.of(timed)
    for lines_of, in_colour in zip(panels_of, shown, strict=True):
        row = last(lines_of[0])
        panel = axes[ways.index(_way(row))][sizes.index(scaling.size(row))]
        panel.set_visible(True)
        kept = scaling.told(row, holder(rows))
        panel.set_title(f"{direction(row)}, {mask(row)}\n{kept}", fontsize=8.5)
        _draw(panel, lines_of, in_colour, style)
        if crowded:
            _name(panel, in_colour, style, limits)
    _finish(axes, limits, f"useful TFLOP/s per {device(rows)}")
    if crowded:
        longest = max(len(last(line).backend) for in_colour in shown for line in in_colour)
        figure.set_figwidth(figure.get_figwidth() + len(sizes) * _LETTER * longest)
    else:
        legend(figure, [last(line) for lines_of in panels_of for line in lines_of], style)
    footnote(figure, "\n".join(filter(None, (_IDEAL, _CROWDED if crowded else "", _played(timed)))))
    return figure


def _grown(rows: Sequence[ReportRow]) -> list[Line]:
    """Lines of contestants with two sizes or more: of one size nothing grows."""
    return [line for line in lines(rows) if len(line) > 1]


def _frame(
    timed: Sequence[ReportRow], scaling: Scaling, shared: str, shape: tuple[int, int],
    shown: Sequence[Sequence[Line]],
) -> tuple[Figure, list[list[Axes]]]:  # fmt: skip
    """Panels, unseen until there is something in them, as high as their names need."""
    title = f"{scaling.name.capitalize()} scaling: rates by the number of ranks"
    where = " / ".join(dict.fromkeys(row.gpu or "CPU" for row in timed))
    size = _WIDTH, max(_HEIGHT, _LINE * max(map(len, shown)) + 0.7)
    figure, axes = panels(timed, title, shape, size, share="all", words=f"{where}; {shared}")
    for panel in (panel for line in axes for panel in line):
        panel.set_visible(False)
    return figure, axes


@dataclass(frozen=True, slots=True)
class _Limits:
    """Of all panels: the sizes of rings, and where rates end."""

    ranks: tuple[int, ...]
    top: float

    @classmethod
    def of(cls, rows: Sequence[ReportRow]) -> _Limits:
        ranks = sorted({row.world_size for row in rows})
        return cls(tuple(ranks), 1.08 * max(map(_reach, rows)))


def _reach(row: ReportRow) -> float:
    """Where its bar ends, or as far as it may without making all else small."""
    rate = row.tflops_per_gpu or 0.0
    return min(rate + interval(row)[1], 1.25 * rate)


def _way(row: ReportRow) -> tuple[bool, int]:
    """Causal first, then directions in their order."""
    return not row.causal, list(Direction).index(row.direction)


def _draw(axes: Axes, found: Sequence[Line], shown: Sequence[Line], style: Style) -> None:
    for line in found:
        if line not in shown:
            axes.plot(list(line), _rates(line), color=BEHIND, linewidth=0.8, zorder=1)
    for line in shown:
        row = last(line)
        axes.errorbar(
            list(line), _rates(line), yerr=tuple(zip(*map(interval, line.values()), strict=True)),
            color=style.colour(row), marker=style.marker(row), linestyle=style.line(row),
            fillstyle=style.fill(row), markersize=style.size(row), linewidth=1.3, capsize=2,
            elinewidth=1,
        )  # fmt: skip
    _ideals(axes, shown, style)


def _fastest(found: Sequence[Line]) -> list[Line]:
    """Of each backend the line that is highest where rings are largest."""
    best: dict[str, Line] = {}
    for line in found:
        name = last(line).backend
        if name not in best or _end(line) > _end(best[name]):
            best[name] = line
    return list(best.values())


def _end(line: Line) -> tuple[int, float]:
    return max(line), last(line).tflops_per_gpu or 0.0


def _rates(line: Line) -> list[float]:
    return [nan if row.tflops_per_gpu is None else row.tflops_per_gpu for row in line.values()]


def _ideals(axes: Axes, shown: Sequence[Line], style: Style) -> None:
    """Of each backend, from the fastest of its smallest rings on."""
    for of_backend in group(map(last, shown), lambda row: row.backend).values():
        own = [line for line in shown if last(line) in of_backend and len(line) > 1]
        if not own:
            continue
        start, end = min(map(min, own)), max(map(max, own))
        rate = max(line[start].tflops_per_gpu or 0.0 for line in own if start in line)
        axes.plot(
            [start, end], [rate, rate],
            color=style.colour(of_backend[0]), linestyle=_DOTS, linewidth=1.1,
        )  # fmt: skip


def _name(axes: Axes, shown: Sequence[Line], style: Style, limits: _Limits) -> None:
    """Names to the right of the panel, as near to their lines' ends as they have room."""
    ordered = sorted(shown, key=lambda line: last(line).tflops_per_gpu or 0.0)
    rates = [last(line).tflops_per_gpu or 0.0 for line in ordered]
    heights = apart(rates, limits.top)
    for line, rate, height in zip(ordered, rates, heights, strict=True):
        row = last(line)
        axes.annotate(
            row.backend, (max(line), rate), (1.3 * limits.ranks[-1], height), fontsize=6.5,
            color=style.colour(row), va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": style.colour(row), "linewidth": 0.5, "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def apart(wanted: Sequence[float], top: float) -> list[float]:
    """Rising heights up to the top, each a name's height or more above the one before."""
    gap = top / max(len(wanted), _NAMES)
    found: list[float] = []
    for height in wanted:
        found.append(max(height, found[-1] + gap) if found else height)
    ceiling = top
    for at in reversed(range(len(found))):
        found[at] = min(found[at], ceiling)
        ceiling = found[at] - gap
    return found


def _finish(axes: Sequence[Sequence[Axes]], limits: _Limits, unit: str) -> None:
    """Ring sizes by powers of two, rates from 0."""
    ranks = limits.ranks
    for at, line in enumerate(axes):
        seen = [panel for panel in line if panel.get_visible()]
        seen[0].set_ylabel(unit, fontsize=8)
        for panel in seen:
            panel.set_xscale("log", base=2)
            panel.set_xticks(ranks, list(map(str, ranks)))
            panel.set_xlim(ranks[0] / 1.2, ranks[-1] * 1.2)
            panel.minorticks_off()
            panel.tick_params(labelsize=7, labelleft=panel is seen[0])
            panel.set_ylim(0, limits.top)
            if at == len(axes) - 1:
                panel.set_xlabel("ranks", fontsize=8)


def _played(rows: Sequence[ReportRow]) -> str:
    """Which rings were not one rank to a GPU."""
    on = sorted({(row.world_size, row.played_on) for row in rows if row.played_on is not None})
    told = ", ".join(f"W = {size} on {count}" for size, count in on)
    return f"Larger rings played by fewer {device(rows)}s: {told}." if on else ""
