"""One more call of a row, looked at: asked of its group, on one clock for all ranks, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ring_attn_bench.records.breakdown import breakdown
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.trace import RankTrace, Span, Trace, path_of, write
from ring_attn_bench.records.values import Count, Frozen, Text


class Looked(Frozen):
    """What one process saw, in milliseconds of a clock of its own.

    met: where it was each time that all processes met, before the call. began, ended: of the call.
    """

    rank: Count
    clock: Text
    met: tuple[float, ...]
    began: float
    ended: float
    spans: tuple[Span, ...]


def aligned(looks: Sequence[Looked]) -> tuple[RankTrace, ...]:
    """All ranks on one clock, which is 0 where the first of them began.

    Whenever all met, all clocks stood at one time, but for how late each process left: the median
    over several times says how far a clock is from that of the first.
    """
    first = looks[0]
    behind = [
        median(own - other for own, other in zip(look.met, first.met, strict=True))
        for look in looks
    ]
    zero = min(look.began - late for look, late in zip(looks, behind, strict=True))

    def moved(span: Span, by: float) -> Span:
        start = span.start - by
        return span.model_copy(update={"start": start, "end": max(start, span.end - by)})

    return tuple(
        RankTrace(
            rank=look.rank,
            end=look.ended - late - zero,
            spans=tuple(moved(span, late + zero) for span in look.spans),
        )
        for look, late in zip(looks, behind, strict=True)
    )


@dataclass(frozen=True)
class Traces:
    """Where traces of a run go. tell: hears of a row that could not be looked at."""

    run: Path
    tell: Callable[[str], None]

    def keep(self, record: Record, looks: Sequence[Looked]) -> None:
        """Writes the row's trace; raises FileError."""
        found = breakdown(record)
        trace = Trace(
            run=record.run,
            case=record.case.name,
            contestant=record.contestant.name,
            direction=record.direction,
            clock=looks[0].clock,
            ring_ms=None if found is None else found.ring,
            ideal_ms=None if found is None else found.ideal,
            ranks=aligned(looks),
        )
        write(path_of(self.run, trace.key), trace)

    def failed(self, record: Record, reason: str) -> None:
        """Says why a row has none; what was measured of it is kept."""
        self.tell(
            f"    no trace of {record.contestant.name} {record.direction.value}: {reason}; its "
            "times are kept."
        )
