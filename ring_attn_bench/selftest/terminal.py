"""What the harness said of each fault, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten

from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.text.sentences import sentences
from ring_attn_bench.text.table import fold

SHOWN = 200
"""Characters at most of what was said where a fault was named."""


def text(every: Sequence[Heard], left_out: Mapping[str, str], width: int) -> str:
    """Fault, what the harness said, whether that names it; then what was not planted, and why."""
    rows = [(each.fault.name, _said(each), _named(each)) for each in every]
    table = sentences(rows, width, ("fault", "what the harness said", "named"), column=1)
    lines = [f"{name} is left out: {reason}." for name, reason in left_out.items()]
    return "\n".join([table, "", *(fold(line, width) for line in (*lines, sentence(every)))])


def sentence(every: Sequence[Heard]) -> str:
    """How many were named, and how many controls are right."""
    faults = [each for each in every if not each.fault.is_control]
    controls = [each for each in every if each.fault.is_control]
    return (
        f"{sum(each.is_named for each in faults)} of {len(faults)} faults are named, and "
        f"{sum(each.is_named for each in controls)} of {len(controls)} controls are right."
    )


def _named(each: Heard) -> str:
    if each.fault.is_control:
        return "right" if each.is_named else "WRONG"
    return "yes" if each.is_named else "NO"


def _said(each: Heard) -> str:
    if each.is_named:
        return shorten(each.said, SHOWN, placeholder=" ...")
    return f"{each.said} [it should say: {'; '.join(each.missing)}]"
