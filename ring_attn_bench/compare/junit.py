"""A comparison as JUnit's XML, which CI systems show: a test for each row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from ring_attn_bench.compare.comparison import Comparison, Together
from ring_attn_bench.compare.rows import ComparedRow, Verdict
from ring_attn_bench.compare.sides import Key
from ring_attn_bench.records.status import Status

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(of: Comparison) -> str:
    """A test for each row and group: regressions fail, what nothing is known of is skipped."""
    cases = [*(_of_row(row) for row in of.rows), *(_of_group(each) for each in of.together)]
    for name, keys in ((of.before.name, of.only_before), (of.after.name, of.only_after)):
        cases += [_case(key, "skipped", f"only in {name}") for key in keys]
    counts = {tag: str(sum(case.find(tag) is not None for case in cases)) for tag in _TAGS}
    attributes = {
        "name": _clean(f"{of.before.name} and {of.after.name}"), "tests": str(len(cases)),
        "failures": counts["failure"], "errors": "0", "skipped": counts["skipped"],
    }  # fmt: skip
    suite = ElementTree.Element("testsuite", attributes)
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


_TAGS = ("failure", "skipped")


def _of_row(row: ComparedRow) -> ElementTree.Element:
    if row.regressions:
        return _case(row.key, "failure", "; ".join(row.regressions), "\n".join(_evidence(row)))
    if row.statuses[1] is not Status.OK:
        return _case(row.key, "skipped", "right on neither side")
    if row.gone:
        return _case(row.key, "skipped", f"B no longer says: {', '.join(row.gone)}")
    if row.verdict is Verdict.UNSURE:
        return _case(row.key, "skipped", "unsure whether the time is the same")
    return _case(row.key)


def _evidence(row: ComparedRow) -> Iterator[str]:
    yield from (r.reason for r in row.after if r.reason)
    yield from (f"{s.what}: {s.before:g} -> {s.after:g}" for s in row.sizes)
    for how, times in row.times.items():
        yield f"{times.before:g} ms -> {times.after:g} ms{how and ' '}{how}"
    yield from (f"again: {r.command}" for r in row.after[:1] if r.command)


def _of_group(each: Together) -> ElementTree.Element:
    key = ("together", each.name, "all")
    if each.verdict is not Verdict.SLOWER:
        return _case(key)
    return _case(key, "failure", f"slower by {100 * (each.change.ratio - 1):.1f} % together")


def _case(key: Key, tag: str = "", message: str = "", text: str = "") -> ElementTree.Element:
    case, contestant, direction = (_clean(word) for word in key)
    test = ElementTree.Element("testcase", {"classname": case, "name": f"{contestant} {direction}"})
    if tag:
        inner = ElementTree.SubElement(test, tag, {"message": _clean(message)})
        inner.text = _clean(text) or None
    return test


def _clean(words: str) -> str:
    """Without what XML cannot hold at all; the rest is escaped when it is written."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", words)
