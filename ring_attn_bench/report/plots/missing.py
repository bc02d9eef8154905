"""In words, which contestants have no point in a picture, and how they ended instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import group, label, mask, varying
from ring_attn_bench.text.digits import tokens


def missing(rows: Sequence[ReportRow]) -> str:
    """A line for each status: `Not drawn, oom: reference/zigzag, aten/zigzag (32K; backward)`."""
    who = varying(rows)
    contestants = group(rows, lambda row: label(row, who))
    absent = [row for row in rows if row.tflops_per_gpu is None]
    lines = []
    for word, of_word in group(absent, _word).items():
        places: dict[str, list[str]] = {}
        for name, gaps in group(of_word, lambda row: label(row, who)).items():
            places.setdefault(_where(gaps, contestants[name]), []).append(name)
        texts = [", ".join(names) + where for where, names in places.items()]
        lines.append(f"Not drawn, {word}: {'; '.join(texts)}.")
    return "\n".join(lines)


def _word(row: ReportRow) -> str:
    if row.status is not Status.OK:
        return row.status.value
    return "interpreted" if row.interpreted else "not timed"


def _where(gaps: Sequence[ReportRow], rows: Sequence[ReportRow]) -> str:
    """Nothing if a contestant is missing everywhere; its lengths, masks and directions if that is
    the whole truth; else how often."""
    aspects = [list(dict.fromkeys(place)) for place in zip(*map(_place, gaps), strict=True)]
    everywhere = [set(place) for place in zip(*map(_place, rows), strict=True)]
    if len(gaps) == len(rows):
        return ""
    if set(product(*aspects)) & set(map(_place, rows)) != set(map(_place, gaps)):
        return f" ({len(gaps)} of {len(rows)} records)"
    narrow = [
        aspect for aspect, every in zip(aspects, everywhere, strict=True) if set(aspect) != every
    ]
    return f" ({'; '.join(', '.join(aspect) for aspect in narrow)})"


def _place(row: ReportRow) -> tuple[str, str, str]:
    return tokens(row.seqlen_per_gpu), mask(row), row.direction.value
