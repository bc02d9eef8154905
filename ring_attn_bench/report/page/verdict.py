"""The verdict in a sentence, and by direction and length in a few more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.digits import plural, tokens
from ring_attn_bench.report.groups import SharedShape, device, direction, group, holder, mask
from ring_attn_bench.report.page.decisions import Decision
from ring_attn_bench.report.page.material import Material


def sentence(material: Material, decisions: Sequence[Decision]) -> str:
    """Who is fastest how often, how ours fare beside peers, and how many rows failed."""
    if not material.timed:
        right = sum(row.status is Status.OK for row in material.rows)
        told = f"{right:,} of {plural(len(material.rows), 'row')} are right; nothing was timed."
        return f"{told} {_failures(material)}"
    return " ".join([*_fastest(decisions), *_peers(decisions), _failures(material)])


def points(material: Material, decisions: Sequence[Decision]) -> tuple[str, ...]:
    """Who is fastest at which length, of the shape with most rows, for each direction and mask."""
    first = next(iter(material.shapes))
    swept = [x for x in decisions if SharedShape.of(x.fastest) == first]
    kinds = group([x.fastest for x in swept], lambda row: (row.direction, row.causal))
    lines = []
    for kind in kinds:
        alike = [x for x in swept if (x.fastest.direction, x.fastest.causal) == kind]
        alike.sort(key=lambda x: x.fastest.seqlen_per_gpu)
        if any(x.kernel for x in alike):
            lines.append(_by_length(material, alike))
    return (*lines, *_beside_one_call(material, decisions))


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


def _by_length(material: Material, decisions: Sequence[Decision]) -> str:
    row = decisions[0].fastest
    parts = []
    for name, of_name in groupby(decisions, key=_name):
        alike = list(of_name)
        lengths = [tokens(x.fastest.seqlen_per_gpu) for x in alike]
        ahead = [x.kernel.behind.times for x in alike if x.kernel is not None]
        by = f" (by {_range([f'{x:.2f}x' for x in sorted(ahead)])})" if ahead else ""
        parts.append(f"{name} at {_range(lengths)}{by}")
    way = direction(row).capitalize()
    return f"{way}, {mask(row)}, by tokens per {holder(material.rows)}: {'; '.join(parts)}."


def _range(words: Sequence[str]) -> str:
    """The first to the last of them."""
    return " to ".join(dict.fromkeys((words[0], words[-1])))


def _name(decision: Decision) -> str:
    """The fastest, and the other kernel or ring that may be as fast."""
    if decision.kernel is None or decision.is_sure:
        return decision.fastest.backend
    return " or ".join(sorted((decision.fastest.backend, decision.kernel.row.backend)))


def _fastest(decisions: Sequence[Decision]) -> Iterator[str]:
    met = [x for x in decisions if x.kernel is not None]
    if not met:
        yield "Nothing was timed beside another kernel or ring."
        return
    by_backend = group([x.fastest for x in met], lambda row: row.backend)
    counts = sorted(by_backend.items(), key=lambda item: -len(item[1]))
    parts = []
    for place, (name, rows) in enumerate(counts):
        sure = sum(x.is_sure for x in met if x.fastest.backend == name)
        of = f" of {plural(len(met), 'shape')}" if place == 0 else ""
        parts.append(f"{name} in {len(rows)}{of} ({sure} beyond noise)")
    yield f"Fastest and right: {', '.join(parts)}."


def _peers(decisions: Sequence[Decision]) -> Iterator[str]:
    leads = [x.peer.behind for x in decisions if x.peer is not None]
    if not leads:
        return
    ahead = sum(x.times > 1 for x in leads)
    sure = sum(x.is_sure for x in leads)
    lost = sum(x.high is not None and x.high < 1 for x in leads)
    where = f"in {ahead} of {len(leads)}" if ahead < len(leads) else f"in all {len(leads)}"
    behind = f", and surely slower in {lost}" if lost else ""
    yield (
        f"The best of ours is faster than every peer {where} shapes that have one "
        f"({sure} beyond noise){behind}."
    )


def _failures(material: Material) -> str:
    bad = sum(row.status.is_failure for row in material.rows)
    return f"{plural(bad, 'failure')} in {plural(len(material.rows), 'record')}."
