"""The ceilings of a run's rings, asked of a worker group once each, as the parent sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ring_attn_bench.bench.messages import Envelope, Gauge
from ring_attn_bench.bench.suite import Entry
from ring_attn_bench.records.ceilings import Ceilings, Gauged
from ring_attn_bench.workers.group import Group
from ring_attn_bench.workers.reply import WorkerFailed

Ring = tuple[int, str, tuple[int, ...]]
"""Its ranks, how it is played, and who plays whom."""


class Gauges:
    """Of each ring among the entries, what the machine makes of plain work.

    group_of: the group that runs an entry. seconds: for the answer of a group.
    """

    def __init__(
        self, entries: Sequence[Entry], group_of: Callable[[Entry], Group], seconds: float
    ) -> None:
        self._entries, self._group_of, self._seconds = entries, group_of, seconds
        self._found: dict[tuple[Ring, str], Ceilings] = {}

    def measure(self, entry: Entry) -> None:
        """Measures for all dtypes of the entry's ring, in its group.

        A group that fails is started anew for whoever is next; why is kept, and nothing else.
        """
        ring = _ring(entry)
        dtypes = tuple(dict.fromkeys(x.case.dtype for x in self._entries if _ring(x) == ring))
        command = Envelope(about="ceilings", command=Gauge(dtypes=dtypes)).model_dump_json()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            answers = self._group_of(entry).ask(command, self._seconds)
            gauged = [Gauged.model_validate(answer["gauged"]) for answer in answers]
        except WorkerFailed as failure:
            gauged = [Gauged(unmeasured=failure.reason)]
        for dtype in dtypes:
            self._found[ring, dtype] = Ceilings.of(dtype, gauged, at)

    def of(self, entry: Entry) -> Ceilings | None:
        """Those of the entry's ring and dtype; None where nobody asked."""
        return self._found.get((_ring(entry), entry.case.dtype))


def _ring(entry: Entry) -> Ring:
    who = entry.contestant
    return entry.case.world_size, who.played, who.playing
