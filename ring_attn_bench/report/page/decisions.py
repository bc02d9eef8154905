"""For each case and direction, whom to take: the fastest right contestant, and who comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.digits import digits
from ring_attn_bench.report.groups import device, group
from ring_attn_bench.report.page.lead import HOW, Lead, lead
from ring_attn_bench.report.page.material import (
    ERROR,
    MEMORY,
    Material,
    error,
    is_peer,
    memory,
)
from ring_attn_bench.report.page.model import Cell, Column, Grid


@dataclass(frozen=True, slots=True)
class Rival:
    """Another contestant, and how far the fastest is ahead of it."""

    row: ReportRow
    behind: Lead


@dataclass(frozen=True, slots=True)
class Decision:
    """Of one case and direction. Rivals are None where there is none.

    kernel: the fastest with another kernel or ring. peer: the fastest of other people's rings,
    beside ours: the fastest ring of ours, which may be behind it.
    """

    fastest: ReportRow
    runner_up: Rival | None
    kernel: Rival | None
    ours: ReportRow | None
    peer: Rival | None

    @property
    def is_sure(self) -> bool:
        """Whether no other kernel or ring may be as fast."""
        return self.kernel is not None and self.kernel.behind.is_sure


def decisions(material: Material) -> tuple[Decision, ...]:
    """One for each case and direction in which anything has a speed."""
    cases = group(material.timed, lambda row: (row.case, row.direction))
    return tuple(_decision(material, rows) for rows in cases.values())


def _decision(material: Material, rows: Sequence[ReportRow]) -> Decision:
    ordered = sorted(rows, key=lambda row: row.latency_ms or 0.0)
    fastest, *others = ordered
    ours = next((row for row in ordered if not is_peer(row.backend)), None)
    peer = next((row for row in ordered if is_peer(row.backend)), None)
    other = next((row for row in others if row.backend != fastest.backend), None)
    return Decision(
        fastest,
        _rival(material, others[0] if others else None, fastest),
        _rival(material, other, fastest),
        ours,
        None if ours is None else _rival(material, peer, ours),
    )


def _rival(material: Material, row: ReportRow | None, beside: ReportRow) -> Rival | None:
    if row is None:
        return None
    return Rival(row, lead(material.times(row), material.times(beside)))


def table(material: Material, found: Sequence[Decision]) -> Grid:
    """The decision table."""
    peers = any(decision.peer for decision in found)
    unit = device(material.rows)
    columns = [
        *material.places,
        Column("fastest", "word", "the fastest contestant whose results are right"),
        Column("ms", meaning="median over iterations of the slowest rank's time"),
        Column("±", meaning="the larger side of that median's 95 % confidence interval"),
        Column(f"TFLOP/s/{unit}", meaning="useful work"),
        Column("ahead of the runner-up", meaning=HOW),
        Column("runner-up", "word"),
        Column("MiB", meaning=MEMORY),
        Column("error", meaning=ERROR),
    ]
    if peers:
        columns += [
            Column("best peer takes", meaning=f"beside the best of ours: {HOW}"),
            Column("best peer", "word", "the fastest of other people's rings"),
        ]
    rows = tuple(_line(material, decision, peers) for decision in found)
    return Grid("the fastest right contestant of each shape", tuple(columns), rows)


def _line(material: Material, decision: Decision, peers: bool) -> tuple[Cell, ...]:
    row = decision.fastest
    cells = [
        *material.where(row),
        material.who(row),
        Cell(digits(row.latency_ms, 4), row.latency_ms),
        side(row),
        Cell(digits(row.tflops_per_gpu)),
        *_rival_cells(material, decision.runner_up),
        memory(row),
        error(row),
    ]
    if peers:
        cells += _rival_cells(material, decision.peer)
    return tuple(cells)


def _rival_cells(material: Material, rival: Rival | None) -> tuple[Cell, Cell]:
    if rival is None:
        return Cell(""), Cell("nobody else", tone="quiet")
    tone = "bad" if rival.behind.times < 1 else rival.behind.cell().tone
    cell = Cell(str(rival.behind), rival.behind.times, tone)
    return cell, material.who(rival.row)


def side(row: ReportRow) -> Cell:
    """The larger side of the median's interval, as a share of the median."""
    if row.latency_ms is None or row.latency_ms_lo is None or row.latency_ms_hi is None:
        return Cell("")
    share = max(row.latency_ms - row.latency_ms_lo, row.latency_ms_hi - row.latency_ms)
    percent = 100 * share / row.latency_ms
    return Cell(f"{percent:.1f} %", percent)
