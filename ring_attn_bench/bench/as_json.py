"""What a dry run says, for a program."""

from __future__ import annotations

import json

from ring_attn_bench.bench.dry_run import Plan

SCHEMA = 1


def text(plan: Plan) -> str:
    """All of it: an entry is a case, a contestant and the directions that are left of it."""
    entries = [
        {
            "case": entry.case.name,
            "contestant": entry.contestant.name,
            "directions": [direction.value for direction in entry.directions],
            "unavailable": plan.reasons.get(entry.contestant.backend),
        }
        for entry in plan.entries
    ]
    told = {"schema": SCHEMA, "suite": plan.suite.name, "entries": entries, "seconds": plan.seconds}
    return json.dumps(told, indent=1, allow_nan=False)
