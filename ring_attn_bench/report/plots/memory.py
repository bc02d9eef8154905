"""GPU memory beyond the inputs, at the longest sequence at which anything ran."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import holder
from ring_attn_bench.report.plots.bars import draw_bars
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.text.digits import tokens

_NOTE = (
    "Filled: the peak of a call, its results included. Hollow: what stays between calls, the "
    "communicator and memory that peers reach."
)


def draw_memory(rows: Sequence[ReportRow], style: Style) -> Figure | None:
    """A bar for each contestant, filled per call and hollow for what is kept; None without any."""
    measured = [row for row in rows if peak(row) is not None]
    if not measured:
        return None
    longest = max(row.seqlen_per_gpu for row in measured)
    at_longest = [row for row in rows if row.seqlen_per_gpu == longest]
    title = f"Peak extra memory at {tokens(longest)} tokens per {holder(at_longest)}"
    unit = "MiB beyond the inputs, largest over ranks"
    note = _NOTE if any(kept(row) is not None for row in at_longest) else ""
    return draw_bars(at_longest, style, title, unit, peak, more=kept, note=note)


def peak(row: ReportRow) -> float | None:
    """MiB at the peak, if the row's results were right."""
    return row.peak_extra_mib if row.status.value == "ok" else None


def kept(row: ReportRow) -> float | None:
    """MiB that stay between calls, if the row's results were right."""
    return row.kept_mib if row.status.value == "ok" else None
