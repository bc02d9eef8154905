"""How long a sequence each contestant takes, for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ring_attn_bench.records.limit import Limit, failures

SCHEMA = 1
"""Of the form, which stays as it is but for keys that come."""


def text(every: Sequence[Limit]) -> str:
    """Every limit, with how many ended in a fault."""
    lines = [
        {**limit.model_dump(mode="json", exclude={"schema_version"}), "total": limit.total}
        for limit in every
    ]
    told = {"schema": SCHEMA, "failures": failures(every), "limits": lines}
    return json.dumps(told, indent=1, allow_nan=False)
