"""What was asked for before, but for the addresses, is launched again without looking further."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ring_attn_backends.cute import launch
from ring_attn_bench.relaunch import KEPT, signature

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.plan.problem import Score


class Known(NamedTuple):
    """launches: each with which of the given tensors and then of its own tables it is handed.

    held: what is asked for tells this by its identity, so that it must stay.
    """

    launches: tuple[tuple[launch.Launch, tuple[int, ...], tuple[Tensor, ...]], ...]
    held: object


_kept: dict[Hashable, Known] = {}
_kept_of_batches: dict[Hashable, Known] = {}
"""Launches of one batch's documents, which another batch makes none of: few, for their tables."""
KEPT_OF_BATCHES = 96


def enqueue(
    asked: Hashable, score: Score, given: tuple[Tensor, ...], calls: Callable[[], Iterable[Call]],
    held: object = None, *, of_batch: bool = False,
) -> None:  # fmt: skip
    """Launches what is kept, or the calls, which are then kept.

    asked: what is, besides of these tensors with this score. calls: refuses what cannot be done.
    held: whose identity is asked for. of_batch: whether that is soon asked for no more.
    """
    key = asked, score.softmax_scale, score.softcap, signature(given)
    memory = _kept_of_batches if of_batch else _kept
    known = memory.get(key)
    if known is None:
        known = _made(given, calls(), held)
        if known is not None:
            if len(memory) >= (KEPT_OF_BATCHES if of_batch else KEPT):
                memory.clear()
            memory[key] = known
        return
    for one, numbers, tables in known.launches:
        every = given + tables
        one.run([every[number] for number in numbers])


def _made(given: tuple[Tensor, ...], calls: Iterable[Call], held: object) -> Known | None:
    """Launches the calls, every one; None where one of them cannot be launched again."""
    known, complete = [], True
    for call in calls:
        one = launch.enqueue(call)
        numbers = {id(x): number for number, x in enumerate(given + call.tables)}
        # of a copy the address is another next time, and without rows or keys nothing is launched
        if one is not None and all(id(x) in numbers for x in call.tensors):
            known.append((one, tuple(numbers[id(x)] for x in call.tensors), call.tables))
        else:
            complete = False
    return Known(tuple(known), held) if complete else None
