"""Where we are behind: rows of ours that somebody beats, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import device, group
from ring_attn_bench.report.page.lead import HOW, Lead, lead
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Cell, Cells, Column, Prose, Section
from ring_attn_bench.text.digits import digits, plural

_YARDSTICK = "reference"
"""Plain torch, which is there to be compared with."""

Beaten = tuple[ReportRow, ReportRow, Lead]
"""A row, the fastest that beats it, and by how much."""
IsRival = Callable[[ReportRow, ReportRow], bool]


def section(material: Material) -> Section:
    """First those that peers beat, then kernels that other kernels beat in the same ring."""
    blocks = [*_by_peers(material), *_by_kernels(material)]
    lead = "Ours are the rings with this project's driver; a peer is somebody else's whole ring."
    return Section("behind", "Where we are behind", lead, tuple(blocks))


def _by_peers(material: Material) -> Iterator[Cells | Prose]:
    cases = group(material.timed, lambda row: (row.case, row.direction))
    with_peers = [rows for rows in cases.values() if any(is_peer(row.backend) for row in rows)]
    ours = [(row, rows) for rows in with_peers for row in rows if not is_peer(row.backend)]
    if not ours:
        yield Prose(("No peer was measured beside a ring of ours in this run.",))
        return
    beaten = _beaten(material, ours, lambda _, other: is_peer(other.backend))
    caption = f"{len(beaten)} of {plural(len(ours), 'row')} of ours are behind a peer"
    if not beaten:
        yield Prose((f"No row of ours of {len(ours)} is behind a peer.",))
        return
    yield _grid(material, caption, beaten, "peer")


def _by_kernels(material: Material) -> Iterator[Cells]:
    """Each kernel's fastest ring beside the fastest of all others, peers apart."""
    cases = group(material.timed, lambda row: (row.case, row.direction))
    best = [(row, _best(rows)) for rows in cases.values() for row in _best(rows)]
    best = [(row, others) for row, others in best if len(others) > 1]
    beaten = _beaten(material, best, lambda row, other: row.backend != other.backend)
    if beaten:
        caption = f"{len(beaten)} times a kernel's fastest ring is behind another kernel's"
        yield _grid(material, caption, beaten, "fastest kernel", folded=len(beaten) > 40)


def _best(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The fastest row of each kernel of ours."""
    ours = [row for row in rows if not is_peer(row.backend) and row.backend != _YARDSTICK]
    ordered = sorted(ours, key=lambda row: row.latency_ms or 0.0)
    return [alike[0] for alike in group(ordered, lambda row: row.backend).values()]


def _beaten(
    material: Material, rows: Iterable[tuple[ReportRow, Sequence[ReportRow]]], is_rival: IsRival
) -> list[Beaten]:
    """Of rows, each with those beside it, the ones that are slower than a rival; worst first."""
    beaten = []
    for row, beside in rows:
        rivals = [other for other in beside if is_rival(row, other)]
        rival = min(rivals, key=lambda other: other.latency_ms or 0.0, default=None)
        if rival is not None and (rival.latency_ms or 0.0) < (row.latency_ms or 0.0):
            by = lead(material.times(row), material.times(rival))
            beaten.append((row, rival, by))
    return sorted(beaten, key=lambda pair: -pair[2].times)


def _grid(
    material: Material, caption: str, beaten: Sequence[Beaten], rival: str, *, folded: bool = False
) -> Cells:
    unit = device(material.rows)
    columns = (
        Column("behind by", meaning=HOW),
        Column("sure", "word", "whether beyond the noise of this run"),
        *material.places,
        Column("who", "word"),
        Column(f"TFLOP/s per {unit}"),
        Column(rival, "word"),
        Column(f"its TFLOP/s per {unit}"),
    )
    rows = tuple(
        (
            Cell(str(by), by.times, "bad" if by.is_sure else "quiet"),
            Cell("yes" if by.is_sure else "no", tone="" if by.is_sure else "quiet"),
            *material.where(row),
            material.who(row),
            Cell(digits(row.tflops_per_gpu)),
            material.who(other),
            Cell(digits(other.tflops_per_gpu)),
        )
        for row, other, by in beaten
    )
    return Cells(caption, columns, rows, folded=folded)
