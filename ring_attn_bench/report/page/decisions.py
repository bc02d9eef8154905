"""For each case and direction, whom to take: the fastest right contestant, and who comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, device, group
from ring_attn_bench.report.page.lead import HOW, Lead, lead
from ring_attn_bench.report.page.material import (
    ERROR,
    MEMORY,
    Material,
    error,
    memory,
)
from ring_attn_bench.report.page.model import Cell, Cells, Column
from ring_attn_bench.text.digits import digits

SIDE = (
    "± the larger side of its 95 % confidence interval, where there are 6 samples; a ? where what "
    "GPUs said speaks against it: see Where it was measured"
)


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


def decisions(material: Material) -> tuple[Decision, ...]:
    """One for each case and direction in which anything has a speed."""
    cases = group(material.timed, lambda row: (row.case, row.direction))
    decided = [_decision(material, rows) for rows in cases.values()]
    shapes, directions = list(material.shapes), list(Direction)

    def place(decision: Decision) -> tuple[int, bool, int, int]:
        row = decision.fastest
        shape, direction = shapes.index(SharedShape.of(row)), directions.index(row.direction)
        return shape, not row.causal, direction, row.seqlen_per_gpu

    return tuple(sorted(decided, key=place))


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


def table(material: Material, decided: Sequence[Decision]) -> Cells:
    """The decision table: a line for each case, the best and who is next."""
    peers = any(decision.peer for decision in decided)
    unit = device(material.rows)
    columns = [
        *material.places,
        Column("fastest", "word", "the fastest contestant whose results are right"),
        Column("ahead by", meaning=f"of the runner-up: {HOW}"),
        Column("MiB", meaning=MEMORY),
        Column("error", meaning=ERROR),
        Column(f"TFLOP/s per {unit}", meaning="useful work"),
        Column("ms", meaning=f"median over iterations of the slowest rank's time; {SIDE}"),
        Column("runner-up", "word"),
    ]
    if peers:
        columns += [
            Column("peer takes", meaning=f"beside the best of ours: {HOW}"),
            Column("best peer", "word", "the fastest of other people's rings"),
        ]
    rows = tuple(_line(material, decision, peers) for decision in decided)
    caption = f"the fastest right contestant of each shape; all of them: {material.shared}"
    return Cells(caption, tuple(columns), rows)


def _line(material: Material, decision: Decision, peers: bool) -> tuple[Cell, ...]:
    row = decision.fastest
    ahead, runner_up = _rival_cells(material, decision.runner_up)
    cells = [
        *material.where(row),
        material.who(row),
        ahead,
        memory(row),
        error(row),
        Cell(digits(row.tflops_per_gpu)),
        time(row),
        runner_up,
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


def time(row: ReportRow) -> Cell:
    """0.2973 ± 12.1 %: the median, and the larger side of its interval as a share of it.

    A suspicious one ends with a question mark.
    """
    middle, low, high = row.latency_ms, row.latency_ms_lo, row.latency_ms_hi
    text = digits(middle, 4)
    if middle is not None and low is not None and high is not None:
        text += f" ± {100 * max(middle - low, high - middle) / middle:.1f} %"
    return Cell(f"{text} ?", middle, "bad") if text and row.suspicion else Cell(text, middle)
