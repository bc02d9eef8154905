"""What a dry run says, for a program."""

from __future__ import annotations

import json

from ring_attn_bench.bench.dry_run import Outlook

SCHEMA = 1


def text(seen: Outlook) -> str:
    """All of it: an entry is a case, a contestant and the directions that are left of it."""
    entries = [
        {
            "case": entry.case.name,
            "contestant": entry.contestant.name,
            "directions": [direction.value for direction in entry.directions],
            "unavailable": seen.reasons.get(entry.contestant.backend),
        }
        for entry in seen.entries
    ]
    told = {"schema": SCHEMA, "suite": seen.suite.name, "entries": entries, "seconds": seen.seconds}
    return json.dumps(told, indent=1, allow_nan=False)
