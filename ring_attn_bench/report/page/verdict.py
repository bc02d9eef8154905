"""The verdict in a sentence, and by direction and length in a few more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, device, direction, holder, mask
from ring_attn_bench.report.page.decisions import Decision
from ring_attn_bench.report.page.lead import Lead
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.text.digits import plural, tokens


@dataclass(frozen=True, slots=True)
class Contest:
    """The fastest of a shape and the one that comes next, by the names that tell them apart."""

    row: ReportRow
    name: str
    other: str
    ahead: Lead

    @property
    def names(self) -> str:
        """The fastest, and the other one too where it may be as fast."""
        return self.name if self.ahead.is_sure else " or ".join(sorted((self.name, self.other)))


def sentence(material: Material, decisions: Sequence[Decision]) -> str:
    """Who is fastest how often, how ours fare beside peers, and how many rows failed."""
    if not material.timed:
        right = sum(row.status is Status.OK for row in material.rows)
        told = f"{right:,} of {plural(len(material.rows), 'row')} are right; nothing was timed."
        return f"{told} {_failures(material)}"
    fastest = _counted(_contests(material, decisions), "Fastest and right")
    return " ".join(
        [
            fastest or "Nothing was timed beside anything else.",
            *_peers(decisions),
            _failures(material),
        ]
    )


def in_graphs(material: Material, decisions: Sequence[Decision]) -> str:
    """By which times the sentence is, and who is fastest by those in a graph, as material's are."""
    counted = _counted(_contests(material, decisions), "Without it, in a CUDA graph")
    loop = "Times are of calls in a loop, the host's work included."
    return f"{loop} {counted}" if counted else ""


def points(material: Material, decisions: Sequence[Decision]) -> tuple[str, ...]:
    """Who is fastest at which length, of the shape with most rows, for each direction and mask.

    And how many of all times are suspicious.
    """
    first = next(iter(material.shapes))
    swept = [x for x in decisions if SharedShape.of(x.fastest) == first]
    kinds: dict[object, list[Contest]] = {}
    for contest in _contests(material, swept):
        kinds.setdefault((contest.row.direction, contest.row.causal), []).append(contest)
    which = f", {material.short[first]}" if len(material.shapes) > 1 else ""
    lines = [_by_length(material, alike, which) for alike in kinds.values()]
    return (*lines, *_beside_one_call(material, decisions), *_suspicious(material))


def _suspicious(material: Material) -> Iterator[str]:
    count = sum(row.suspicion is not None for row in material.timed)
    if count:
        times = plural(len(material.timed), "time")
        yield f"What GPUs said speaks against {count:,} of {times}: see Where it was measured."


def _contests(material: Material, decisions: Sequence[Decision]) -> list[Contest]:
    """Between kernels and rings; where there is but one, between its settings."""
    kernels = any(x.kernel is not None for x in decisions)
    contests = []
    for x in decisions:
        rival = x.kernel if kernels else x.runner_up
        if rival is None:
            continue
        name, other = (
            row.backend if kernels else material.naming.label(row) for row in (x.fastest, rival.row)
        )
        contests.append(Contest(x.fastest, name, other, rival.behind))
    return contests


def _beside_one_call(material: Material, decisions: Sequence[Decision]) -> Iterator[str]:
    """How much of one call's pace the fastest rings have, from the least to the most."""
    fastest = [x.fastest for x in decisions if x.fastest.world_size > 1]
    shares = sorted(x for row in fastest if (x := row.percent_of_one_gpu) is not None)
    if shares:
        unit = device(material.rows)
        yield (
            f"The fastest ring of each shape has {_range([f'{x:.0f}' for x in shares])} % of the "
            f"pace of one call of its kernel on one {unit}."
        )


def _by_length(material: Material, contests: Sequence[Contest], which: str) -> str:
    row = contests[0].row
    parts = []
    ordered = sorted(contests, key=lambda contest: contest.row.seqlen_per_gpu)
    for names, of_names in groupby(ordered, key=lambda contest: contest.names):
        alike = list(of_names)
        lengths = [tokens(x.row.seqlen_per_gpu) for x in alike]
        ahead = [f"{x:.2f}x" for x in sorted(x.ahead.times for x in alike)]
        parts.append(f"{names} at {_range(lengths)} (by {_range(ahead)})")
    way = direction(row).capitalize()
    by = f"by tokens per {holder(material.rows)}"
    return f"{way}, {mask(row)}{which}, {by}: {'; '.join(parts)}."


def _range(words: Sequence[str]) -> str:
    """The first and the last of some figures: 4K to 64K."""
    return " to ".join(dict.fromkeys((words[0], words[-1])))


def _counted(contests: Sequence[Contest], what: str) -> str:
    """Who is the fastest how often, and how surely; empty without a contest."""
    if not contests:
        return ""
    counts = Counter(contest.name for contest in contests)
    sure = Counter(contest.name for contest in contests if contest.ahead.is_sure)
    parts = [
        f"{name} in {count} ({sure[name]} beyond noise)" for name, count in counts.most_common()
    ]
    return f"{what}, of {plural(len(contests), 'shape')}: {', '.join(parts)}."


def _peers(decisions: Sequence[Decision]) -> Iterator[str]:
    leads = [x.peer.behind for x in decisions if x.peer is not None]
    if not leads:
        return
    ahead = sum(x.times > 1 for x in leads)
    sure = sum(x.is_sure for x in leads)
    lost = sum(x.high is not None and x.high < 1 for x in leads)
    some = f"in {ahead} of {len(leads)} shapes that have one"
    where = some if ahead < len(leads) else "in every shape that has one"
    behind = f", and surely slower in {lost}" if lost else ""
    yield (
        f"The best of ours is faster than every peer {where} ({sure} of {len(leads)} beyond noise)"
        f"{behind}."
    )


def _failures(material: Material) -> str:
    bad = sum(row.status.is_failure for row in material.rows)
    return f"{plural(bad, 'failure')} in {plural(len(material.rows), 'record')}."
