"""How long a sequence each contestant takes, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten

from ring_attn_bench.records.limit import Limit
from ring_attn_bench.records.record import Case
from ring_attn_bench.text.sentences import sentences

COUNTS = ("tokens/rank", "in all", "then")
SHOWN = 160
"""Characters of a reason at most."""


def table(every: Sequence[Limit], width: int) -> str:
    """The longest first in each direction: what each took, and what happened beyond."""
    ordered = sorted(every, key=lambda x: (x.case.name, x.direction.value, -(x.longest or 0)))
    several = len({x.case.name for x in every}) > 1
    lines = [_line(x, several=several) for x in ordered]
    heads = ["contestant", "direction", *COUNTS, "what happens"]
    return sentences(lines, width, ["case", *heads] if several else heads)


def shape_of(case: Case) -> str:
    """Its name without a length."""
    return case.name.replace(f"s{case.seqlen_total}_", "")


def _line(limit: Limit, *, several: bool) -> list[str]:
    name = shape_of(limit.case)
    said = shorten(" ".join(limit.reason.split()), SHOWN, placeholder=" ...")
    happens = f"{limit.status.value}: {said}" if limit.failed_at else "it goes on: no limit found"
    cells = [limit.contestant.name, limit.direction.value]
    counts = limit.longest, limit.total, limit.failed_at
    cells += [_count(x).rjust(len(head)) for x, head in zip(counts, COUNTS, strict=True)]
    return [*([name] if several else []), *cells, happens]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}"
