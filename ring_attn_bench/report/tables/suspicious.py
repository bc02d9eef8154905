"""Times that what the GPUs said speaks against."""

from __future__ import annotations

from collections.abc import Sequence

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import Naming, mask
from ring_attn_bench.text.digits import plural, tokens
from ring_attn_bench.text.table import Table

_SHOWN = 8


def suspicious(rows: Sequence[ReportRow]) -> list[Table]:
    """One table of suspicious times, or none."""
    doubtful = [row for row in rows if row.latency_ms is not None and row.suspicion]
    if not doubtful:
        return []
    naming = Naming.of(rows)
    body = tuple(
        (
            f"{row.direction.value}, {mask(row)}, {tokens(row.seqlen_per_gpu)}",
            naming.label(row),
            row.suspicion or "",
        )
        for row in doubtful[:_SHOWN]
    )
    headers = ("case", "who", "what speaks against it")
    more = len(doubtful) - _SHOWN
    remarks = (f"{plural(more, 'row')} more: `suspicion` in results.csv.",) if more > 0 else ()
    caption = plural(len(doubtful), "suspicious time")
    return [Table(caption, headers, body, names=len(headers), remarks=remarks)]
