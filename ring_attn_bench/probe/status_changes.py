"""Two coverage matrices: which statuses are not the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.records.finding import Finding


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A cell whose status differs, or that only one of the two matrices has."""

    before: Finding | None
    after: Finding | None

    def __str__(self) -> str:
        either = self.after or self.before
        assert either is not None
        statuses = " -> ".join("none" if x is None else x.verdict.value for x in self._both)
        reasons = [x.reason for x in (self.after, self.before) if x is not None and x.reason]
        why = f" ({reasons[0]})" if reasons else ""
        return f"{either.backend} {either.feature} {either.direction.value}: {statuses}{why}"

    @property
    def _both(self) -> tuple[Finding | None, Finding | None]:
        return self.before, self.after


def changes(before: Sequence[Finding], after: Sequence[Finding]) -> tuple[StatusChange, ...]:
    """In the order of the first, then of the second; reasons and versions may differ freely."""
    old, new = ({finding.key: finding for finding in side} for side in (before, after))
    pairs = [(old.get(key), new.get(key)) for key in dict.fromkeys((*old, *new))]
    return tuple(
        StatusChange(a, b) for a, b in pairs if a is None or b is None or a.verdict != b.verdict
    )
