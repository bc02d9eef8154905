"""Findings as the cells of a matrix: features down, backends across, two directions in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ring_attn_bench.conformance.features import CHAPTERS, FEATURES
from ring_attn_bench.records.direction import DIRECTIONS
from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status

SYMBOLS = {
    Status.OK: "✓",
    Status.UNSUPPORTED: "-",
    Status.OOM: "M",
    Status.ERROR: "!",
    Status.TIMEOUT: "∞",
    Status.WRONG: "✗",
}
NOT_ASKED = " "
UNAVAILABLE = "unavailable: "


@dataclass(frozen=True)
class Matrix:
    """The cells that there are, and the order in which they are shown."""

    cells: Mapping[tuple[str, str, str], Finding]
    backends: tuple[str, ...]
    absent: Mapping[str, str]
    """The backends that could not be asked anything, and why."""
    chapters: tuple[tuple[str, tuple[str, ...]], ...]
    """Titles, and the features that there is a finding of."""

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Matrix:
        """Of a file's findings; a feature that has been renamed since is shown at the end."""
        asked = dict.fromkeys(finding.feature for finding in findings)
        known = [
            (chapter.title, tuple(x.name for x in chapter.features if x.name in asked))
            for chapter in CHAPTERS
        ]
        others = ("Others", tuple(name for name in asked if name not in FEATURES))
        absent = _absent(findings)
        names = dict.fromkeys(finding.backend for finding in findings)
        return cls(
            {finding.key: finding for finding in findings},
            tuple(name for name in names if name not in absent),
            absent,
            tuple((title, names) for title, names in (*known, others) if names),
        )

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order in which they came."""
        return tuple(self.cells.values())

    @property
    def features(self) -> tuple[str, ...]:
        """The features' names, from top to bottom."""
        return tuple(name for _, names in self.chapters for name in names)

    @property
    def counts(self) -> str:
        """How many findings of each status; what is not on this machine has refused nothing."""
        asked = Counter(x.verdict for x in self.findings if x.backend not in self.absent)
        parts = [f"{asked[x]:,} {x.value}" for x in Status if asked[x]]
        missing = len(self.findings) - asked.total()
        if missing:
            parts.append(f"{missing:,} not on this machine ({', '.join(self.absent)})")
        return f"{len(self.findings):,} findings: {', '.join(parts)}."

    def cell(self, backend: str, feature: str) -> tuple[Finding | None, Finding | None]:
        """The backend's findings about the feature, forward and backward."""
        first, second = (self.cells.get((backend, feature, x.value)) for x in DIRECTIONS)
        return first, second


def _absent(findings: Sequence[Finding]) -> dict[str, str]:
    reasons: dict[str, set[str]] = {}
    for finding in findings:
        reasons.setdefault(finding.backend, set()).add(finding.reason)
    alike = {name: next(iter(told)) for name, told in reasons.items() if len(told) == 1}
    return {name: why for name, why in alike.items() if why.startswith(UNAVAILABLE)}


def title(feature: str) -> str:
    """What a feature is called where people read it."""
    return FEATURES[feature].title if feature in FEATURES else feature


def symbol(finding: Finding | None) -> str:
    """One character for a finding."""
    return NOT_ASKED if finding is None else SYMBOLS[finding.verdict]
