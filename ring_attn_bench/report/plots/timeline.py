"""One call of a row on a line of time: of each rank what it computes, waits for and sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ring_attn_bench.records.trace import RankTrace, Span, Trace
from ring_attn_bench.report.plots.canvas import GREY, footnote, plain
from ring_attn_bench.text.digits import digits

_WIDTH, _RANK, _AROUND = 13.0, 0.62, 1.5
"""Inches: of the picture with its legend, of a rank, and of what is above and below them."""
_LAUNCHES = ("#0072B2", "#56B4E9")
_KEYS, _GRADIENTS, _WAITS = "#E69F00", "#CC79A7", "#D55E00"
_FEWEST, _ROOM = 1e-3, 0.02
"""Shares of the width: what is shorter is not drawn; what has room for its step's number."""
_UPPER, _LOWER, _LINE = 0.05, 0.5, 0.36
"""Of a rank's height, from above: where its launches are, and what it sends; each as high as
that."""


def draw_timeline(trace: Trace) -> Figure:
    """A line of launches and waits for each rank, and below it what travels to it and from it."""
    ranks = sorted(trace.ranks, key=lambda rank: rank.rank)
    figure = Figure(figsize=(_WIDTH, _RANK * len(ranks) + _AROUND), dpi=150, layout="constrained")
    what = trace.direction.value.replace("_", " + ")
    figure.suptitle(
        f"{trace.contestant}, {what}: one call on {len(ranks)} rank{'s' * (len(ranks) > 1)}\n"
        f"{trace.case}",
        x=0.01, ha="left", fontsize=10, linespacing=1.4,
    )  # fmt: skip
    axes = figure.subplots()
    plain(axes)
    axes.grid(visible=False, axis="y")
    end = max((rank.end for rank in ranks), default=0.0)
    width = max(end, trace.ideal_ms or 0.0) or 1.0
    axes.set_xlim(-0.005 * width, 1.005 * width)
    axes.set_ylim(len(ranks), 0)
    axes.set_yticks([at + 0.5 for at in range(len(ranks))], [f"rank {x.rank}" for x in ranks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("ms since the first rank began", fontsize=8)
    for at, rank in enumerate(ranks):
        _draw(axes, at, rank, width)
    if trace.ideal_ms is not None:
        axes.axvline(trace.ideal_ms, color="#000000", linestyle="--", linewidth=1.2)
    _legend(figure, trace)
    footnote(figure, _note(trace, end))
    return figure


def _draw(axes: Axes, at: int, rank: RankTrace, width: float) -> None:
    for span in rank.spans:
        if span.end - span.start < _FEWEST * width:
            continue
        if span.lane == "waits":
            _bar(axes, at + _UPPER, _LINE, span, "white", hatch="////", edge=_WAITS)
        elif span.lane == "launches":
            _bar(axes, at + _UPPER, _LINE, span, _LAUNCHES[(span.step or 0) % 2])
            if span.step is not None and span.end - span.start > _ROOM * width:
                axes.text(
                    (span.start + span.end) / 2, at + _UPPER + _LINE / 2, str(span.step),
                    ha="center", va="center", fontsize=7, color="white", clip_on=True,
                )  # fmt: skip
        else:  # two steps' may be on their way at once: each in its half
            half = _LINE / 2
            above = at + _LOWER + half * ((span.step or 0) % 2)
            _bar(axes, above, half, span, _KEYS if span.lane == "keys" else _GRADIENTS)
    axes.plot([rank.end] * 2, [at + 0.02, at + 0.9], color=GREY, linewidth=1)


def _bar(
    axes: Axes, above: float, height: float, span: Span, colour: str, hatch: str = "",
    edge: str = "white",
) -> None:  # fmt: skip
    axes.broken_barh(
        [(span.start, span.end - span.start)], (above, height), facecolor=colour, hatch=hatch,
        edgecolor=edge, linewidth=0.4,
    )  # fmt: skip


def _legend(figure: Figure, trace: Trace) -> None:
    seen = {span.lane for rank in trace.ranks for span in rank.spans}
    handles: list[Patch | Line2D] = [Patch(facecolor=_LAUNCHES[0], label="launches, by step")]
    if "waits" in seen:
        handles.append(Patch(facecolor="white", edgecolor=_WAITS, hatch="////", label="waits"))
    if "keys" in seen:
        handles.append(Patch(facecolor=_KEYS, label="keys on their way"))
    if "gradients" in seen:
        handles.append(Patch(facecolor=_GRADIENTS, label="gradients on their way"))
    if trace.ideal_ms is not None:
        handles.append(
            Line2D([], [], color="#000000", linestyle="--", label="the ideal's end: one call")
        )
    handles.append(Line2D([], [], color=GREY, linewidth=1, label="the rank's end"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def _note(trace: Trace, end: float) -> str:
    return " ".join(_sentences(trace, end))


def _sentences(trace: Trace, end: float) -> Iterator[str]:
    yield f"By {trace.clock}. What is blank is merging, copies and the host."
    if trace.ring_ms is not None:
        yield (
            f"This call, looked at, took {digits(end)} ms; the median of those that were timed is "
            f"{digits(trace.ring_ms)} ms."
        )
    if any(span.lane in ("keys", "gradients") for span in _all(trace.ranks)):
        yield "What travels ends where it was seen to have come: it may have been there before."


def _all(ranks: Sequence[RankTrace]) -> Iterator[Span]:
    for rank in ranks:
        yield from rank.spans
