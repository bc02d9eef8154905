"""What the harness said of each fault, for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ring_attn_bench.selftest.heard import Heard

SCHEMA = 1
"""Of the form, which stays as it is but for keys that come."""


def text(every: Sequence[Heard], left_out: Mapping[str, str]) -> str:
    """What was heard of every fault, as JSON."""
    lines = [
        {
            "fault": each.fault.name,
            "does": each.fault.does,
            "control": each.fault.is_control,
            "said": each.said,
            "named": each.is_named,
            "missing": list(each.missing),
        }
        for each in every
    ]
    return json.dumps({"schema": SCHEMA, "faults": lines, "left_out": dict(left_out)}, indent=1)
