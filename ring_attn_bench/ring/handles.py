"""Contexts by a name: what a traced graph can hold of one, which is no tensor."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ring_attn_bench.errors import InvalidArgument

if TYPE_CHECKING:
    from ring_attn_bench.ring.context import RingContext

_numbers = count(1)
_contexts: WeakValueDictionary[str, RingContext] = WeakValueDictionary()
"""Those that live in this process: nothing here keeps one."""


def named(context: RingContext) -> str:
    """A name that no other context of this process has or had."""
    handle = f"RingContext {next(_numbers)}"
    _contexts[handle] = context
    return handle


def of_name(handle: str) -> RingContext:
    """The context; raises InvalidArgument when it is gone."""
    context = _contexts.get(handle)
    if context is None:
        raise InvalidArgument(
            f"this graph was traced with {handle}, of which this process has none (any more); keep "
            "the context as long as what was compiled with it, and load no exported ring elsewhere."
        )
    return context
