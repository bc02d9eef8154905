"""Records and pictures -> the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ring_attn_bench.records.record import Record
from ring_attn_bench.records.trace import Trace
from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import group, machine
from ring_attn_bench.report.over_cache import apart
from ring_attn_bench.report.page import (
    behind,
    decisions,
    decode,
    errors,
    held,
    matrix,
    missing,
    provenance,
    scaling,
    spent,
    timelines,
    verdict,
)
from ring_attn_bench.report.page.decisions import Decision
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Mark, Page, Prose, Section
from ring_attn_bench.report.plots import Gallery
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.rows import latest, rows
from ring_attn_bench.text.digits import plural

_UNTIMED = "Nothing was timed, so nothing is fastest; whether it is right is under Accuracy."


def page(
    records: Sequence[Record],
    gallery: Gallery,
    folder: Path,
    traces: tuple[Trace, ...] = (),
    run: Path | None = None,
) -> Page:
    """All that the records say; pictures are told by their path from the folder.

    traces: what lies in `run` of rows that were looked at.
    """
    newest = latest(records)
    material = Material(newest, rows(newest), gallery, folder, traces, run or folder)
    rings, caches = (material.of(some) for some in apart(material.rows))
    what = "Ring attention" if rings.rows else "Attention over a cache"
    return Page(
        f"{what} on {_machine(material.rows)}",
        f"{_about(material.rows)} {_shapes(material)}",
        " Over a cache: ".join(_verdict(x) for x in (rings, caches) if x.rows),
        tuple(point for x in (rings, caches) if x.rows for point in _points(x)),
        marks(material.rows),
        (
            *(_of_rings(rings) if rings.rows else ()),
            *((decode.section(caches),) if caches.rows else ()),
            missing.section(material),
            provenance.how(),
            provenance.where(material),
            provenance.again(material),
        ),
    )


def _verdict(material: Material) -> str:
    said = verdict.sentence(material, decisions.decisions(material))
    graphs = material.in_graphs
    return f"{said} {verdict.in_graphs(graphs, decisions.decisions(graphs))}".strip()


def _points(material: Material) -> tuple[str, ...]:
    return verdict.points(material, decisions.decisions(material))


def _of_rings(material: Material) -> Iterator[Section]:
    yield _decided(material, decisions.decisions(material))
    if material.timed:
        yield behind.section(material)
        yield matrix.section(material)
        yield scaling.section(material)
        yield spent.section(material)
        looked_at = timelines.section(material)
        if looked_at is not None:
            yield looked_at
    yield errors.section(material)
    yield held.section(material)


def _decided(material: Material, decided: Sequence[Decision]) -> Section:
    title = "Which to take"
    if not decided:
        return Section("decisions", title, "", (Prose((_UNTIMED,)),))
    lead = (
        "For each shape the fastest contestant whose results are right, what it costs in memory "
        "and error, and how far it is ahead; a lead in grey may be chance."
    )
    return Section("decisions", title, lead, (decisions.table(material, decided),))


def _machine(lines: Sequence[ReportRow]) -> str:
    """Where the rings ran; of more than two kinds the sizes alone."""
    whole = machine(lines)
    if whole.count(" / ") < 2:
        return whole
    places = ", ".join(dict.fromkeys(row.gpu or "a CPU" for row in lines))
    sizes = sorted({row.world_size for row in lines})
    return f"{places}, W = {', '.join(map(str, sizes))}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where, when and by which commits rows were measured, in short words."""

    machine: str
    minutes: tuple[str, ...]
    """The first and the last in which one began; one, or none that is known."""
    commits: tuple[str, ...]


def stamp(lines: Sequence[ReportRow]) -> Stamp:
    """Where and when some rows were measured, and of which commits."""
    dates = sorted(row.started_at for row in lines if row.started_at)
    minutes = dict.fromkeys(_minute(date) for date in dates[:1] + dates[-1:])
    commits = dict.fromkeys(_short(row.commit) for row in lines if row.commit)
    return Stamp(_machine(lines), tuple(minutes), tuple(commits))


def _about(lines: Sequence[ReportRow]) -> str:
    suites, place = ", ".join(dict.fromkeys(row.suite for row in lines)), stamp(lines)
    when = f", measured {' to '.join(place.minutes)}" if place.minutes else ""
    by = f" by commit {', '.join(place.commits)}" if place.commits else ""
    contestants = plural(len({row.contestant for row in lines}), "contestant")
    cases = plural(len({row.case for row in lines}), "case")
    counted = f"{contestants}, {cases}, {plural(len(lines), 'record')}"
    return f"Suite {suites}{when}{by}: {counted}."


def _shapes(material: Material) -> str:
    """What rows of the one shape share; of several, what their shapes do."""
    if len(material.shapes) == 1:
        return f"{next(iter(material.headings.values()))}."
    return f"All of it: {material.shared}."


def _minute(date: str) -> str:
    """2026-11-30T00:07:16+00:00 as 2026-11-30 00:07 UTC; another form as it is."""
    if not date.endswith("+00:00") or len(date) < 16:
        return date
    return f"{date[:10]} {date[11:16]} UTC"


def _short(commit: str) -> str:
    name, dirty, _ = commit.partition("-dirty")
    return name[:12] + dirty


def marks(lines: Sequence[ReportRow]) -> tuple[Mark, ...]:
    """Backends in the order of the rows."""
    style = Style.of(lines)
    return tuple(
        Mark(
            name,
            style.colour(of_backend[0]),
            style.marker(of_backend[0]),
            is_peer(name),
            f"{of_backend[0].backend_version or ''} · {plural(len(of_backend), 'row')}".strip(" ·"),
        )
        for name, of_backend in group(lines, lambda row: row.backend).items()
    )
