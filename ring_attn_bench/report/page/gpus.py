"""How the GPUs were while rows were timed, and which rows that makes suspicious."""

from __future__ import annotations

from collections.abc import Iterator

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Prose
from ring_attn_bench.text.digits import digits, plural


def blocks(material: Material) -> Iterator[Block]:
    """Suspicious rows with their reasons, what every GPU said, and why one said nothing."""
    suspicious = [row for row in material.timed if row.suspicion]
    if suspicious:
        yield _suspicious(material, suspicious)
    seen = [row for row in material.timed if row.sm_mhz is not None or row.watts is not None]
    if seen:
        yield _every(material, seen)
    told = [row for row in material.timed if row.kernels]
    if told:
        yield _kernels(material, told)
    unseen = {x.gpus.unseen: None for x in material.records if x.gpus and x.gpus.unseen}
    if unseen:
        yield Prose(tuple(f"Of some GPUs nothing is known: {reason}" for reason in unseen))


def _suspicious(material: Material, rows: list[ReportRow]) -> Cells:
    columns = *material.places, Column("who", "word"), Column("what speaks against it", "word")
    lines = tuple(
        (*material.where(row), material.who(row), Cell(row.suspicion or "")) for row in rows
    )
    return Cells(f"{plural(len(rows), 'row')} with a suspicious time", columns, lines)


def _every(material: Material, rows: list[ReportRow]) -> Cells:
    columns = (
        *material.places,
        Column("who", "word"),
        Column("SM MHz", meaning="while calls ran: the median of the looks, of the slowest GPU"),
        Column("memory MHz", meaning="as SM MHz"),
        Column("W", meaning="while calls ran: the median of the looks, of the hungriest GPU"),
        Column("\N{DEGREE SIGN}C", meaning="the hottest that a GPU was"),
        Column("held back by", "word", "why clocks were not higher, in NVML's words"),
    )
    lines = tuple(
        (
            *material.where(row),
            material.who(row),
            Cell(digits(row.sm_mhz, 4), row.sm_mhz),
            Cell(digits(row.memory_mhz, 4), row.memory_mhz),
            Cell(digits(row.watts), row.watts),
            Cell("" if row.celsius is None else str(row.celsius), row.celsius),
            Cell(row.held_back or ""),
        )
        for row in rows
    )
    return Cells("how the GPUs were while rows were timed, by NVML", columns, lines, folded=True)


def _kernels(material: Material, rows: list[ReportRow]) -> Cells:
    columns = (
        *material.places,
        Column("who", "word"),
        Column("kernels: registers + spilled words of a thread", "word"),
    )
    lines = tuple(
        (*material.where(row), material.who(row), Cell(row.kernels or "")) for row in rows
    )
    caption = "what the compiler made of the kernels that ran"
    return Cells(caption, columns, lines, folded=True)
