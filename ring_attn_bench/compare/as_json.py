"""A comparison for a program."""

from __future__ import annotations

import json
from typing import Any

from ring_attn_bench.compare.comparison import Comparison, Together
from ring_attn_bench.compare.noise import Change, share
from ring_attn_bench.compare.rows import ComparedRow, Medians
from ring_attn_bench.compare.sides import ComparedSide, Key

SCHEMA = 1


def text(of: Comparison) -> str:
    """One object; docs/comparing.md says what is in it."""
    told = {
        "schema": SCHEMA,
        "regression": of.is_regression,
        "before": _side(of.before),
        "after": _side(of.after),
        "differences": of.differences,
        "limits": {
            "effect": of.limits.effect, "error": of.limits.error, "memory": of.limits.memory,
            "between": of.limits.shared,
        },
        "rows": [_row(row) for row in of.rows],
        "together": [_group(each) for each in of.together],
        "only_before": [_named(key) for key in of.only_before],
        "only_after": [_named(key) for key in of.only_after],
    }  # fmt: skip
    return json.dumps(told, indent=1, allow_nan=False)


def _side(side: ComparedSide) -> dict[str, Any]:
    return {"name": side.name, "runs": side.runs, "rows": len(side.records)}


def _named(key: Key) -> dict[str, str]:
    return dict(zip(("case", "contestant", "direction"), key, strict=True))


def _row(row: ComparedRow) -> dict[str, Any]:
    was, now = row.statuses
    return {
        **_named(row.key),
        "status": {"before": was.value, "after": now.value},
        "verdict": row.verdict,
        "time": None if row.time is None else _time(row.time),
        "graph": None if row.graph is None else _time(row.graph),
        "sizes": [
            {"what": s.what, "before": s.before, "after": s.after, "worse": s.worse}
            for s in row.sizes
        ],
        "took": row.took,
        "why": row.why,
        "gone": row.gone,
        "regressions": row.regressions,
    }


def _time(time: Medians) -> dict[str, Any]:
    told = {"verdict": time.verdict.value, "before_ms": time.before, "after_ms": time.after}
    return {**told, **(_change(time.change, time.p) if time.change else {})}


def _change(change: Change, p: float | None) -> dict[str, Any]:
    return {
        "change": change.ratio - 1, "low": share(change.low), "high": share(change.high),
        "shows": change.shows, "p": change.p, "p_adjusted": p,
    }  # fmt: skip


def _group(each: Together) -> dict[str, Any]:
    told = {"name": each.name, "rows": each.rows, "verdict": each.verdict.value}
    return {**told, **_change(each.change, each.p)}
