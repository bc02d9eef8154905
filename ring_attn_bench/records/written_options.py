"""Options of a ring as a record has them: readable wherever it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from pydantic import PlainSerializer, WrapValidator

from ring_attn_bench.errors import UnknownName
from ring_attn_bench.ring.options import DEFAULTS, RingOptions


def _as_written(value: object, made: Callable[[object], RingOptions]) -> RingOptions:
    if not isinstance(value, dict):
        return made(value)
    for name in value:
        if name not in DEFAULTS:
            raise UnknownName("ring option", name, DEFAULTS)  # a ValueError
    options = made({**value, "transport": "auto"})
    # unchecked: a record is read where the package that brought its transport is not installed
    object.__setattr__(options, "transport", str(value.get("transport", "auto")))
    return options


# whole, whatever the defaults are: a record must mean the same when they have changed
Options = Annotated[RingOptions, WrapValidator(_as_written), PlainSerializer(asdict)]
