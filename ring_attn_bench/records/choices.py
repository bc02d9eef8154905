"""Which configuration a table row should have: pure arithmetic on outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ring_attn_bench.records.outcome import Outcome, RowKey
from ring_attn_bench.records.statistics import SHARED
from ring_attn_bench.records.status import Status

WORTH = 2 * SHARED
"""A gain below this share, 1 %, is not worth a change. Trials take turns in one run, so that their
samples' spread says little; another day may still have all of one program's times that far off."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The trials of one table row: what is shipped, and the fastest of what is right."""

    key: RowKey
    shipped: Outcome | None
    fastest: Outcome | None
    right: int
    """How many trials are right, timed or not."""

    @property
    def advice(self) -> str:
        """What to do with the row, in a line."""
        kernel, table, head_dim, dtype = self.key
        return f"{table} {kernel}, head dim {head_dim}, {dtype}: {self._what_to_do()}"

    def _what_to_do(self) -> str:
        if self.fastest is None:
            return self._without_times()
        best = self.fastest.subject.trial.config
        if self.shipped is None:
            return f"nothing shipped was tried; {best} is the fastest"
        shipped = self.shipped.subject.trial.config
        if not self.shipped.is_timed:
            what = self.shipped.verdict.value
            return f"shipped {shipped} has no speed ({what}); {best} is the fastest that is right"
        gain = self.shipped.mean / self.fastest.mean - 1
        if best == shipped:
            return f"keep {shipped}"
        if gain < WORTH:
            return f"keep {shipped} ({best} is {gain:.1%} faster, less than {WORTH:.0%})"
        return f"shipped {shipped}, {best} would be {gain:.1%} faster"

    def _without_times(self) -> str:
        if not self.right:
            return "nothing is right"
        right = f"{self.right} right, none timed"
        if self.shipped is None or self.shipped.verdict is Status.OK:
            return right
        return f"shipped {self.shipped.subject.trial.config}: {self.shipped.verdict.value}; {right}"


def choices(outcomes: Iterable[Outcome]) -> tuple[Choice, ...]:
    """One for each table row, in the order of the outcomes."""
    rows: dict[RowKey, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.subject.row, []).append(outcome)
    return tuple(_choice(key, of_row) for key, of_row in rows.items())


def _choice(key: RowKey, outcomes: Sequence[Outcome]) -> Choice:
    shipped = next((x for x in outcomes if x.subject.trial.shipped), None)
    timed = [x for x in outcomes if x.is_timed]
    fastest = min(timed, key=lambda x: x.mean, default=None)
    right = sum(x.verdict is Status.OK for x in outcomes)
    return Choice(key, shipped, fastest, right)
