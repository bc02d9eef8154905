"""Advice for a program."""

from __future__ import annotations

import json
from typing import Any

from ring_attn_bench.advise.answer import Advice
from ring_attn_bench.advise.estimate import Estimate
from ring_attn_bench.advise.figures import Figure, RingWay

SCHEMA = 1
"""Of the form, which stays as it is but for keys that come."""


def text(advice: Advice) -> str:
    """One object; docs/advice.md says what is in it."""
    told = {
        "schema": SCHEMA,
        "asked": _asked(advice),
        "best": _estimate(advice.best),
        "best_ours": _estimate(advice.best_ours),
        "why": list(advice.why()),
        "ways": [_estimate(each) for each in advice.ways],
        "too_large": [_estimate(each) for each in advice.too_large],
        "unknown": [_way(way) for way in advice.unknown],
        "failed": [
            {**_way(each.way), "status": each.status.value, "run": each.run}
            for each in advice.failed
        ],
        "limit_mib": advice.limit,
    }
    return json.dumps(told, indent=1, allow_nan=False)


def _asked(advice: Advice) -> dict[str, Any]:
    """As the command line has it, and what it comes to on one GPU."""
    shape = advice.shape
    return {
        "heads_q": shape.heads_q, "heads_kv": shape.heads_kv, "head_dim": shape.head_dim,
        "tokens": shape.seqlen_total, "seqlen_per_gpu": shape.seqlen_per_gpu,
        "gpus": shape.world_size, "gpu": shape.gpu, "batch": shape.batch, "dtype": shape.dtype,
        "causal": shape.causal, "direction": shape.direction.value,
        "memory_mib": advice.question.memory,
    }  # fmt: skip


def _way(way: RingWay) -> dict[str, Any]:
    return {"name": way.name, **way.model_dump()}


def _estimate(each: Estimate | None) -> dict[str, Any] | None:
    if each is None:
        return None
    return {
        **_way(each.way),
        "ms": each.ms, "tflops_per_gpu": each.tflops, "error": each.error,
        "mib": {"inputs": each.inputs, "call": each.call, "kept": each.kept, "all": each.memory},
        "known": each.known.value, "words": each.words,
        "from": [_figure(figure) for figure in each.of],
    }  # fmt: skip


def _figure(of: Figure) -> dict[str, Any]:
    return {
        "run": of.run, "seqlen_per_gpu": of.shape.seqlen_per_gpu, "gpus": of.shape.world_size,
        "played": of.played, "ms": of.ms, "low": of.low, "high": of.high,
    }  # fmt: skip
