"""Whom a pass waits for, as its words tell: a batch takes none of them before all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ring_attn_bench.plan import Plan
from ring_attn_bench.ring.transports.copy_engine.words import Words


def awaited(plan: Plan, slot: int, table: list[int], *, landed: bool) -> str:
    """In words; table: this rank's, as it is now. landed: whether all keys are there.

    Where some words of a kind are there, those that are not are waited for; where none is, it
    cannot be known whether they were taken, and everybody is named.
    """
    words = Words(plan.world_size)
    others = [rank for rank in range(plan.world_size) if rank != plan.rank]
    readers = sorted({send.reader for step in plan.steps for send in step.sends})

    def absent(ranks: Iterable[int], word: Callable[[int], int]) -> list[int]:
        return [rank for rank in ranks if not table[word(rank) // 4]]

    missing = absent(others, lambda rank: words.present(slot, rank))
    if len(missing) < len(others):
        return f"the keys of {_named(missing)}" if missing else "its own keys"
    if landed and readers:
        return f"gradients from {_named(absent(readers, words.given) or readers)}"
    unread = absent(others, lambda rank: words.free(slot, rank))
    return f"the keys of {_named(unread or others)}"


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks}"
