"""What is made once for a gathered launch: the worklists that its programs read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ring_attn_bench.plan.gathered import Gathered

_Made = TypeVar("_Made")
_kept: dict[int, dict[Hashable, Any]] = {}
# by a launch's identity, while there is one: to hash all of its integers takes longer than a launch


def once(where: Gathered, make: Callable[..., _Made], *told: Hashable) -> _Made:
    """What `make(where, *told)` returns, made when it is asked for first, while `where` lives."""
    known = _kept.get(id(where))
    if known is None:
        known = _kept[id(where)] = {}
        weakref.finalize(where, _kept.pop, id(where), None)
    key = make, *told
    if key not in known:
        known[key] = make(where, *told)
    made: _Made = known[key]
    return made
