"""What was asked for before, but for the addresses, is launched again without looking further."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from ring_attn_backends.cute import launch
from ring_attn_bench.relaunch import KEPT, signature

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.plan.problem import Score

Known = tuple[tuple[launch.Launch, tuple[int, ...]], ...]
"""Launches, and which of the given tensors each is handed."""

_kept: dict[Hashable, Known] = {}


def enqueue(
    asked: Hashable, score: Score, given: tuple[Tensor, ...], calls: Callable[[], Iterable[Call]]
) -> None:
    """Launches what is kept, or the calls, which are then kept.

    asked: what is, besides of these tensors with this score. calls: refuses what cannot be done.
    """
    key = asked, score.softmax_scale, score.softcap, signature(given)
    known = _kept.get(key)
    if known is None:
        _make(key, given, calls())
        return
    for one, numbers in known:
        one.run([given[number] for number in numbers])


def _make(key: Hashable, given: tuple[Tensor, ...], calls: Iterable[Call]) -> None:
    numbers = {id(x): number for number, x in enumerate(given)}
    known = []
    for call in calls:
        one = launch.enqueue(call)
        # of a copy the address is another next time, and without rows or keys nothing is launched
        if one is not None and all(id(x) in numbers for x in call.tensors):
            known.append((one, tuple(numbers[id(x)] for x in call.tensors)))
        else:
            key = None
    if key is None:
        return
    if len(_kept) >= KEPT:
        _kept.clear()
    _kept[key] = tuple(known)
