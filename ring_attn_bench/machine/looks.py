"""What a self-check finds, look by look."""

from __future__ import annotations

from ring_attn_bench.records.values import Frozen, Text


class Look(Frozen):
    """What was looked at, and what was found. is_right: None where nothing can be wrong."""

    what: Text
    found: Text
    is_right: bool | None = None
