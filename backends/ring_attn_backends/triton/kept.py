"""What was asked for before, but for the addresses, is launched again without looking further."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.relaunch import KEPT, Made, Relaunch, placement, relaunch, signature

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.launching import TritonLaunch
    from ring_attn_bench.plan.problem import Score


@dataclass(slots=True)
class Known:
    """Launches that were made; held: what their key tells by its identity, so that must stay.

    kernels: theirs; used: whether they were launched again since somebody asked.
    """

    again: Relaunch
    tables: tuple[Tensor, ...]
    held: object
    kernels: frozenset[UsedKernel]
    used: bool = False


_kept: dict[Hashable, Known] = {}
_kept_of_batches: dict[Hashable, Known] = {}
"""Launches of one batch's documents, which another batch makes none of: few, for their tables."""
KEPT_OF_BATCHES = 96
_made_since: set[UsedKernel] = set()
"""Of launches that were made, not made again, since somebody asked."""


def used() -> tuple[UsedKernel, ...]:
    """The kernels that were launched since this was asked last, each once, by name."""
    used_now = set(_made_since)
    _made_since.clear()
    for known in (*_kept.values(), *_kept_of_batches.values()):
        if known.used:
            known.used = False
            used_now |= known.kernels
    return tuple(sorted(used_now, key=astuple))


def enqueue(
    asked: Hashable, given: tuple[Tensor, ...], seen: tuple[Tensor, ...],
    more: tuple[Tensor, ...], score: Score, launches: Callable[[], Sequence[TritonLaunch]],
    *, held: object = None, alike: bool = False, of_batch: bool = False,
) -> Known | None:  # fmt: skip
    """Launches what is kept, or the launches, which are then kept; what of them is.

    asked: what is, besides of these tensors with this score. given: what kernels read and write;
    seen: those of them that the others follow from. more: other tensors that kernels are handed.
    alike: whether what is asked tells shapes and scores too, so that nobody has to look at them.
    of_batch: whether it is soon asked for no more.
    """
    if score.dropout_p or not given[0].is_cuda:  # a seed is a call's own; nothing is compiled
        _made(launches())
        return None
    if score.alibi_slopes is not None:
        more = *more, score.alibi_slopes
    key: Hashable
    if alike:
        key = asked, placement((*seen, *more))
    else:
        key = asked, score.softmax_scale, score.softcap, signature((*seen, *more))
    memory = _kept_of_batches if of_batch else _kept
    kept = memory.get(key)
    if kept is not None:
        kept.used = True  # a store, and nothing more: hosts count microseconds here
        kept.again.run((*given, *more, *kept.tables))
        return kept
    made = launches()
    calls, tables = _made(made), tuple(x for one in made for x in one.tables)
    scratch = [x for one in made for x in one.scratch]
    again = relaunch(calls, (*given, *more, *tables), scratch)
    if again is None:
        return None
    if len(memory) >= (KEPT_OF_BATCHES if of_batch else KEPT):
        memory.clear()
    memory[key] = known = Known(again, tables, held, frozenset(_kernels(calls)))
    return known


def _made(launches: Sequence[TritonLaunch]) -> list[Made]:
    calls = [call for one in launches for call in one.made()]
    _made_since.update(_kernels(calls))
    return calls


def _kernels(calls: Sequence[Made]) -> Iterator[UsedKernel]:
    return (kernel for call in calls if (kernel := call.used) is not None)
