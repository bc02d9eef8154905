"""How long a sequence each contestant takes, for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ring_attn_bench.records.limit import SCHEMA, Limit, failures


def text(every: Sequence[Limit]) -> str:
    """All of it."""
    lines = [{**limit.model_dump(mode="json"), "total": limit.total} for limit in every]
    return json.dumps({"schema": SCHEMA, "failures": failures(every), "limits": lines}, indent=1)
