"""What colours, lines and fillings mean, to the right of the panels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import OPTIONS, ReportRow
from ring_attn_bench.report.groups import group, label, varying
from ring_attn_bench.report.plots.canvas import GREY
from ring_attn_bench.report.plots.style import Style, variant

_HANDLE, LETTER = 0.6, 0.075
"""Inches: of a handle with its margins, and of one letter of its label."""
_LINE = 0.18
"""Inches: the height of an entry."""
_VARIANT = ("transport", *OPTIONS)


def legend(figure: Figure, rows: Sequence[ReportRow], style: Style, lines: bool = True) -> None:
    """Backends by colour and marker; with `lines`, partitions and variants where they differ."""
    handles = list(_backends(rows, style, lines))
    if lines:
        handles += [*_partitions(rows, style), *_variants(rows, style)]
    # beside the panels and their title, and not at their cost
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = ceil(len(handles) / int(figure.get_figheight() / _LINE - 1))
    figure.set_figwidth(figure.get_figwidth() + columns * (_HANDLE + LETTER * longest))
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=8, handlelength=3,
        ncols=columns,
    )  # fmt: skip


def _backends(rows: Sequence[ReportRow], style: Style, lines: bool) -> Iterator[Line2D]:
    for name, of_backend in group(rows, lambda row: row.backend).items():
        first = of_backend[0]
        yield Line2D(
            [], [], label=name, color=style.colour(first), marker=style.marker(first),
            linestyle="-" if lines else "", markersize=6,
            fillstyle="none" if is_peer(name) else "full",
        )  # fmt: skip


def _partitions(rows: Sequence[ReportRow], style: Style) -> Iterator[Line2D]:
    by_partition = group(rows, lambda row: row.partition)
    if len(by_partition) > 1:
        for name, (first, *_) in by_partition.items():
            yield Line2D([], [], label=name, color=GREY, linestyle=style.line(first))


def _variants(rows: Sequence[ReportRow], style: Style) -> Iterator[Line2D]:
    rows = [row for row in rows if not is_peer(row.backend)]
    by_variant = group(rows, variant)
    names = [name for name in varying(rows, _VARIANT) if name in _VARIANT]
    if len(by_variant) > 1:
        for first, *_ in by_variant.values():
            yield Line2D(
                [], [], label=label(first, names), color=GREY, linestyle="", marker="o",
                fillstyle=style.fill(first), markersize=style.size(first) + 1.5,
            )  # fmt: skip
