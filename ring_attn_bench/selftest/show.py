"""The outcome of a selftest as a table, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from textwrap import fill, shorten

from tabulate import tabulate

from ring_attn_bench.selftest.heard import Heard

NARROWEST = 30
"""Characters of what was said in a line, at least."""
SCHEMA = 1
"""Of the JSON, which stays as it is but for keys that come."""
SHOWN = 200
"""Characters of it at most where a fault was named."""


def table(every: Sequence[Heard], left_out: Mapping[str, str], width: int) -> str:
    """Fault, what the harness said, whether that names it; then what was not planted, and why."""
    names = max(len(found.fault.name) for found in every)
    room = max(NARROWEST, width - names - len("named") - 4)
    text = tabulate(
        [(found.fault.name, _said(found), _named(found)) for found in every],
        headers=("fault", "what the harness said", "named"),
        maxcolwidths=[None, room, None],
        disable_numparse=True,
        break_long_words=False,
    )
    lines = [f"{name} is left out: {reason}." for name, reason in left_out.items()]
    return "\n".join([text, "", *(fill(line, width) for line in (*lines, sentence(every)))])


def sentence(every: Sequence[Heard]) -> str:
    """How many were named, and how many controls are right."""
    faults = [found for found in every if not found.fault.is_control]
    controls = [found for found in every if found.fault.is_control]
    return (
        f"{sum(found.is_named for found in faults)} of {len(faults)} faults are named, and "
        f"{sum(found.is_named for found in controls)} of {len(controls)} controls are right."
    )


def as_json(every: Sequence[Heard], left_out: Mapping[str, str]) -> str:
    """All of it, for a program."""
    lines = [
        {
            "fault": found.fault.name,
            "does": found.fault.does,
            "control": found.fault.is_control,
            "said": found.said,
            "named": found.is_named,
            "missing": list(found.missing),
        }
        for found in every
    ]
    return json.dumps({"schema": SCHEMA, "faults": lines, "left_out": dict(left_out)}, indent=1)


def _named(found: Heard) -> str:
    if found.fault.is_control:
        return "right" if found.is_named else "WRONG"
    return "yes" if found.is_named else "NO"


def _said(found: Heard) -> str:
    if found.is_named:
        return shorten(found.said, SHOWN, placeholder=" ...")
    return f"{found.said} [it should say: {'; '.join(found.missing)}]"
