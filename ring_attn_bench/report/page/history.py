"""Many runs: what each says, and what became of a row from one of them to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ring_attn_bench.records.record import Record
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, direction, label, machine, mask
from ring_attn_bench.report.page.build import marks, stamp
from ring_attn_bench.report.page.lead import HOW, lead
from ring_attn_bench.report.page.model import Cell, Cells, Column, Page, Prose, Section, Tone
from ring_attn_bench.report.rows import latest, rows
from ring_attn_bench.text.digits import digits, plural, tokens

_LEAST = 1.01
"""A smaller change is none, however sure: two runs of one commit differ by as much."""
_TONES: dict[str, Tone] = {"slower": "bad", "faster": "good", "same": "quiet"}
_BETWEEN = (
    "Brackets hold what differs within the two runs. What differs between them is not in it: the "
    "machine, its clocks, where processes were placed, versions; a commit is to blame only where "
    "those are the same. What two runs of one program differ by, ring-attn-bench compare knows."
)


@dataclass(frozen=True, slots=True)
class PastRun:
    """A folder's records and their rows, in the same order."""

    name: str
    records: tuple[Record, ...]
    rows: tuple[ReportRow, ...]

    @classmethod
    def of(cls, name: str, records: Sequence[Record]) -> PastRun:
        """The run of a folder with that name."""
        newest = latest(records)
        return cls(name, newest, rows(newest))

    @property
    def when(self) -> str:
        """When its first measurement began."""
        return min((row.started_at for row in self.rows if row.started_at), default="")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row in a run, with its raw times."""

    run: PastRun
    row: ReportRow
    times: list[list[float]]


def index(runs: Sequence[PastRun], others: Sequence[str] = ()) -> Page:
    """The page over them all; others: folders that hold no records."""
    ordered = sorted(runs, key=lambda run: (run.when, run.name))
    every = [row for run in ordered for row in run.rows]
    bad = sum(row.status.is_failure for row in every)
    counted = (plural(len(runs), "run"), plural(len(every), "record"), plural(bad, "failure"))
    changes = _changes(ordered)
    return Page(
        "Runs of ring_attn_bench",
        "Made from their records by ring-attn-bench report --index.",
        f"{', '.join(counted)}. {_told(changes)}",
        (),
        marks(every),
        (
            Section("runs", "All runs", "", (overview(ordered), *_without_records(others))),
            _history(changes),
        ),
    )


def overview(runs: Sequence[PastRun], leads_to: str = "report.html") -> Cells:
    """A line for each, the newest first; leads_to: the file of its folder."""
    columns = (
        Column("run", "word"),
        Column("measured", "word"),
        Column("on", "word"),
        Column("suite", "word"),
        Column("commit", "word"),
        Column("contestants"),
        Column("records"),
        Column("failures"),
    )
    ordered = sorted(runs, key=lambda run: (run.when, run.name), reverse=True)
    return Cells("the newest first", columns, tuple(_line(run, leads_to) for run in ordered))


def _line(run: PastRun, leads_to: str) -> tuple[Cell, ...]:
    bad = sum(row.status.is_failure for row in run.rows)
    place = stamp(run.rows)
    return (
        Cell(run.name, link=f"{run.name}/{leads_to}"),
        Cell(place.minutes[0] if place.minutes else ""),
        Cell(place.machine),
        Cell(", ".join(dict.fromkeys(row.suite for row in run.rows))),
        Cell(", ".join(place.commits)),
        Cell(str(len({row.contestant for row in run.rows}))),
        Cell(str(len(run.rows))),
        Cell(str(bad), tone="bad" if bad else ""),
    )


def _without_records(names: Sequence[str]) -> Iterator[Cells]:
    if names:
        lines = tuple((Cell(name, link=f"{name}/README.md"),) for name in names)
        yield Cells("other measurements, without records", (Column("folder", "word"),), lines)


def _changes(runs: Sequence[PastRun]) -> list[tuple[_Seen, _Seen]]:
    """Each row of a run beside the same row of the last run that had it."""
    seen = [
        _Seen(run, row, record.speed.samples.ring)
        for run in runs
        for record, row in zip(run.records, run.rows, strict=True)
        if record.speed is not None and row.latency_ms is not None
    ]
    same: dict[tuple[str, ...], list[_Seen]] = {}
    for each in seen:
        row = each.row
        key = (row.case, row.contestant, row.direction, machine([row]))
        same.setdefault(key, []).append(each)
    return [pair for history in same.values() for pair in pairwise(history)]


def _told(changes: Sequence[tuple[_Seen, _Seen]]) -> str:
    if not changes:
        return "No row was measured in two of them."
    words = [_word(before, after) for before, after in changes]
    told = ", ".join(f"{words.count(word)} {word}" for word in ("slower", "faster"))
    rows_twice = plural(len(changes), "time")
    return f"A row was measured again {rows_twice}: {told} beyond noise."


def _word(before: _Seen, after: _Seen) -> str:
    change = lead(after.times, before.times)
    if change.is_sure and change.times > _LEAST:
        return "slower"
    if change.high is not None and change.high < 1 and change.times < 1 / _LEAST:
        return "faster"
    return "same"


def _history(changes: Sequence[tuple[_Seen, _Seen]]) -> Section:
    title = "Row by row, from one run to the next"
    if not changes:
        return Section("history", title, "", (Prose(("No row was measured in two runs.",)),))
    columns = (
        Column("takes", meaning=f"the later run beside the earlier one: {HOW}"),
        Column("so it is", "word"),
        Column("who", "word"),
        Column("direction", "word"),
        Column("mask", "word"),
        Column("tokens", meaning="of a sequence on each rank"),
        Column("shape", "word"),
        Column("ms before"),
        Column("ms after"),
        Column("earlier run", "word"),
        Column("later run", "word"),
        Column("commits", "word"),
    )
    lines = [_change(before, after) for before, after in changes]
    lines.sort(key=lambda line: -(line[0].order or 0.0))
    grid = Cells(f"{len(lines)} changes, the slowest first", columns, tuple(lines))
    return Section("history", title, _BETWEEN, (grid,))


def _change(before: _Seen, after: _Seen) -> tuple[Cell, ...]:
    change, word = lead(after.times, before.times), _word(before, after)
    tone = _TONES[word]
    row, shape = after.row, SharedShape.of(after.row)
    commits = [stamp([x.row]).commits[0] if x.row.commit else "?" for x in (before, after)]
    return (
        Cell(str(change), change.times, tone),
        Cell(word, tone=tone),
        Cell(label(row, ("backend", "partition", "transport", *row.options)), who=row.backend),
        Cell(direction(row)),
        Cell(mask(row)),
        Cell(tokens(row.seqlen_per_gpu), row.seqlen_per_gpu),
        Cell(f"{machine([row])}, {shape.title}"),
        Cell(digits(before.row.latency_ms, 4), before.row.latency_ms),
        Cell(digits(row.latency_ms, 4), row.latency_ms),
        Cell(before.run.name, link=f"{before.run.name}/report.html"),
        Cell(after.run.name, link=f"{after.run.name}/report.html"),
        Cell(" to ".join(commits)),
    )
