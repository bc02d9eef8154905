"""What was found, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from textwrap import shorten

from tabulate import tabulate

from ring_attn_bench.records.limit import SCHEMA, Limit
from ring_attn_bench.records.status import Status

NARROWEST = 30
"""Characters of a reason in a line, at least."""
SHOWN = 160
"""Characters of a reason at most."""


def table(every: Sequence[Limit], width: int) -> str:
    """The longest first in each direction: what each took, and what happened beyond."""
    ordered = sorted(every, key=lambda x: (x.case.name, x.direction.value, -(x.longest or 0)))
    several = len({x.case.name for x in every}) > 1
    lines = [_line(x, several=several) for x in ordered]
    heads = ["contestant", "direction", "tokens/GPU", "in all", "then", "what happens"]
    heads = ["case", *heads] if several else heads
    used = [max(len(row[at]) for row in [heads, *lines]) + 2 for at in range(len(heads) - 1)]
    room = max(NARROWEST, width - sum(used))
    return tabulate(
        lines, headers=heads, disable_numparse=True, break_long_words=False,
        maxcolwidths=[None] * (len(heads) - 1) + [room],
        colalign=["left"] * (len(heads) - 4) + ["right"] * 3 + ["left"],
    )  # fmt: skip


def _line(limit: Limit, *, several: bool) -> list[str]:
    name = limit.case.name.replace(f"s{limit.case.seqlen_total}_", "")
    said = shorten(" ".join(limit.reason.split()), SHOWN, placeholder=" ...")
    happens = f"{limit.status.value}: {said}" if limit.failed_at else "it goes on: no limit found"
    cells = [limit.contestant.name, limit.direction.value]
    cells += [_count(x) for x in (limit.longest, limit.total, limit.failed_at)]
    return [*([name] if several else []), *cells, happens]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"


def as_json(every: Sequence[Limit]) -> str:
    """All of it, for a program."""
    lines = [{**limit.model_dump(mode="json"), "total": limit.total} for limit in every]
    return json.dumps({"schema": SCHEMA, "failures": failures(every), "limits": lines}, indent=1)


def failures(every: Sequence[Limit]) -> int:
    """How many ended in a fault: to be refused or to run out of memory is an answer."""
    return sum(Status(limit.status).is_failure for limit in every)
