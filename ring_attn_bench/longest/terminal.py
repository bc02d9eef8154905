"""What was found, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ring_attn_bench.records.limit import SCHEMA, Limit
from ring_attn_bench.records.status import Status
from ring_attn_bench.text.table import Notes, Table


def table(every: Sequence[Limit], width: int) -> str:
    """The longest first in each direction: what each took, and what happened beyond."""
    ordered = sorted(every, key=lambda x: (x.case.name, x.direction.value, -(x.longest or 0)))
    several = len({x.case.name for x in every}) > 1
    notes = Notes()
    rows = tuple(tuple(_line(x, notes, several=several)) for x in ordered)
    first = ("case",) if several else ()
    heads = (*first, "contestant", "direction", "ends", "tokens/GPU", "in all", "fails at")
    caption = "the longest sequence that went well, and what happens beyond"
    return Table(caption, heads, rows, len(heads) - 3, notes.texts).terminal(width)


def _line(limit: Limit, notes: Notes, *, several: bool) -> list[str]:
    name = limit.case.name.replace(f"s{limit.case.seqlen_total}_", "")
    said = notes.cite(" ".join(limit.reason.split()))
    ends = f"{limit.status.value} {said}".strip() if limit.failed_at else "no limit found"
    counts = [_count(x) for x in (limit.longest, limit.total, limit.failed_at)]
    words = [limit.contestant.name, limit.direction.value, ends]
    return [*([name] if several else []), *words, *counts]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def as_json(every: Sequence[Limit]) -> str:
    """All of it, for a program."""
    lines = [{**limit.model_dump(mode="json"), "total": limit.total} for limit in every]
    return json.dumps({"schema": SCHEMA, "failures": failures(every), "limits": lines}, indent=1)


def failures(every: Sequence[Limit]) -> int:
    """How many ended in a fault: to be refused or to run out of memory is an answer."""
    return sum(Status(limit.status).is_failure for limit in every)
