"""A comparison as files that other programs read: JSON, and JUnit's XML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import expm1
from typing import Any
from xml.etree import ElementTree

from ring_attn_bench.compare.comparison import Comparison, Together
from ring_attn_bench.compare.noise import Change
from ring_attn_bench.compare.rows import Row, Time, Verdict
from ring_attn_bench.compare.sides import Key, Side
from ring_attn_bench.records.status import Status

SCHEMA = 1
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(of: Comparison) -> str:
    """One object; docs/comparing.md says what is in it."""
    found = {
        "schema_version": SCHEMA,
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
    return json.dumps(found, indent=1, allow_nan=False)


def _side(side: Side) -> dict[str, Any]:
    return {"name": side.name, "runs": side.runs, "rows": len(side.records)}


def _named(key: Key) -> dict[str, str]:
    return dict(zip(("case", "contestant", "direction"), key, strict=True))


def _row(row: Row) -> dict[str, Any]:
    was, now = row.statuses
    return {
        **_named(row.key),
        "status": {"before": was.value, "after": now.value},
        "time": None if row.time is None else _time(row.time),
        "sizes": [
            {"what": s.what, "before": s.before, "after": s.after, "worse": s.worse}
            for s in row.sizes
        ],
        "took": row.took,
        "why": row.why,
        "regressions": row.regressions,
    }


def _time(time: Time) -> dict[str, Any]:
    found = {"verdict": time.verdict.value, "before_ms": time.before, "after_ms": time.after}
    return {**found, **(_change(time.change, time.p) if time.change else {})}


def _change(change: Change, p: float | None) -> dict[str, Any]:
    return {
        "change": change.ratio - 1, "low": expm1(change.low), "high": expm1(change.high),
        "shows": change.shows, "p": change.p, "p_adjusted": p,
    }  # fmt: skip


def _group(each: Together) -> dict[str, Any]:
    found = {"name": each.name, "rows": each.rows, "verdict": each.verdict.value}
    return {**found, **_change(each.change, each.p)}


def as_junit(of: Comparison) -> str:
    """A test for each row and group: regressions fail, what nothing is known of is skipped."""
    cases = [*(_of_row(row) for row in of.rows), *(_of_group(each) for each in of.together)]
    for name, keys in ((of.before.name, of.only_before), (of.after.name, of.only_after)):
        cases += [_case(key, "skipped", f"only in {name}") for key in keys]
    counts = {tag: str(sum(case.find(tag) is not None for case in cases)) for tag in _TAGS}
    attributes = {
        "name": _text(f"{of.before.name} and {of.after.name}"), "tests": str(len(cases)),
        "failures": counts["failure"], "errors": "0", "skipped": counts["skipped"],
    }  # fmt: skip
    suite = ElementTree.Element("testsuite", attributes)
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


_TAGS = ("failure", "skipped")


def _of_row(row: Row) -> ElementTree.Element:
    if row.regressions:
        return _case(row.key, "failure", "; ".join(row.regressions), "\n".join(_evidence(row)))
    if row.statuses[1] is not Status.OK:
        return _case(row.key, "skipped", "right on neither side")
    if row.time is not None and row.time.verdict is Verdict.UNSURE:
        return _case(row.key, "skipped", "unsure whether the time is the same")
    return _case(row.key)


def _evidence(row: Row) -> Iterator[str]:
    yield from (r.reason for r in row.after if r.reason)
    yield from (f"{s.what}: {s.before:g} -> {s.after:g}" for s in row.sizes)
    if row.time:
        yield f"{row.time.before:g} ms -> {row.time.after:g} ms"
    yield from (f"again: {r.command}" for r in row.after[:1] if r.command)


def _of_group(each: Together) -> ElementTree.Element:
    key = ("together", each.name, "all")
    if each.verdict is not Verdict.SLOWER:
        return _case(key)
    return _case(key, "failure", f"slower by {100 * (each.change.ratio - 1):.1f} % together")


def _case(key: Key, tag: str = "", message: str = "", text: str = "") -> ElementTree.Element:
    case, contestant, direction = (_text(word) for word in key)
    found = ElementTree.Element(
        "testcase", {"classname": case, "name": f"{contestant} {direction}"}
    )
    if tag:
        inner = ElementTree.SubElement(found, tag, {"message": _text(message)})
        inner.text = _text(text) or None
    return found


def _text(words: str) -> str:
    """Without what XML cannot hold at all; the rest is escaped when it is written."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", words)
