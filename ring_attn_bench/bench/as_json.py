"""What a dry run says, for a program."""

from __future__ import annotations

import json

from ring_attn_bench.bench.dry_run import Outlook

SCHEMA = 1


def text(ahead: Outlook) -> str:
    """All of it: an entry is a case, a contestant and the directions that are left of it."""
    entries = [
        {
            "case": entry.case.name,
            "contestant": entry.contestant.name,
            "directions": [direction.value for direction in entry.directions],
            "unavailable": ahead.reasons.get(entry.contestant.backend),
        }
        for entry in ahead.entries
    ]
    told = {
        "schema": SCHEMA,
        "suite": ahead.suite.name,
        "entries": entries,
        "seconds": ahead.seconds,
    }
    return json.dumps(told, indent=1, allow_nan=False)
