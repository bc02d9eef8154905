"""A row's time in parts, as tables and pictures show it: what is beyond noise, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

from ring_attn_bench.report.columns import ReportRow

NAMES = (
    "one call of the kernel",
    "uneven work",
    "launches, merging",
    "communication, as long as the link takes",
    "communication beyond that: waiting, contention",
)
REST = "within noise, or not separated"
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which the colour-blind can tell apart; page.css has the same."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Shares of a whole, in the order of NAMES; rest: what is left of it.

    The whole is the ring's time, or one call's where that is longer.
    """

    shares: tuple[float, ...]

    @property
    def rest(self) -> float:
        """What is left: noise, or a peer's own affair."""
        return max(0.0, 1 - sum(self.shares))

    @property
    def text(self) -> str:
        """54 + 0 + 9 + 37 + 0 %."""
        return f"{' + '.join(f'{100 * share:.0f}' for share in self.shares)} %"


def parts(row: ReportRow) -> Parts | None:
    """The row's; None where it was not timed beside one call of its kernel."""
    if not row.latency_ms or row.one_gpu_ms is None:
        return None
    launches = sure(row.launches_ms, row.launches_ms_lo)
    communication = sure(row.communication_ms, row.communication_ms_lo)
    waiting = row.waiting_ms or 0.0
    found = (
        row.one_gpu_ms, row.uneven_ms or 0.0, launches, max(0.0, communication - waiting), waiting,
    )  # fmt: skip
    whole = max(row.latency_ms, sum(found))
    return Parts(tuple(ms / whole for ms in found))


def sure(ms: float | None, low: float | None) -> float:
    """A difference where it is more than nothing with 95 % confidence; else 0."""
    return ms if ms is not None and low is not None and low > 0 else 0.0


def lost(row: ReportRow) -> float | None:
    """Percent of the ring's time that one call would not have taken; never below 0."""
    if row.percent_of_one_gpu is None:
        return None
    return max(0.0, 100 - row.percent_of_one_gpu)
