"""Advice for a program."""

from __future__ import annotations

import json
from typing import Any

from ring_attn_bench.advise.answer import Advice
from ring_attn_bench.advise.estimate import Estimate
from ring_attn_bench.advise.figures import Way

SCHEMA = 1
"""Of the form, which stays as it is but for keys that come."""


def text(advice: Advice) -> str:
    """One object; docs/advice.md says what is in it."""
    found = {
        "schema": SCHEMA,
        "asked": {**advice.shape.model_dump(), "memory_mib": advice.question.memory},
        "best": _estimate(advice.best),
        "best_ours": _estimate(advice.best_ours),
        "why": list(advice.why()),
        "ways": [_estimate(each) for each in advice.ways],
        "too_large": [_estimate(each) for each in advice.too_large],
        "unknown": [_way(way) for way in advice.unknown],
    }
    return json.dumps(found, indent=1, allow_nan=False)


def _way(way: Way) -> dict[str, Any]:
    return {"name": way.name, **way.model_dump()}


def _estimate(each: Estimate | None) -> dict[str, Any] | None:
    if each is None:
        return None
    return {
        **_way(each.way),
        "ms": each.ms, "tflops_per_gpu": each.tflops, "error": each.error,
        "mib": {"inputs": each.inputs, "call": each.call, "kept": each.kept, "all": each.memory},
        "known": each.known.value, "words": each.words,
        "from": [{"run": f.run, "tokens_per_gpu": f.shape.tokens, "ranks": f.shape.world_size,
                  "played": f.played, "ms": f.ms, "low": f.low, "high": f.high} for f in each.of],
    }  # fmt: skip
