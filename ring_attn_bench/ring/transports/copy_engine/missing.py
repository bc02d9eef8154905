"""Whom a pass waits for, as its words tell: a batch takes none of them before all are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.ring.transports.copy_engine.words import Words


def awaited(plan: Plan, slot: int, table: list[int], *, landed: bool) -> str:
    """In words; table: this rank's, as it is now. landed: whether all keys are there.

    Where some words of a kind are there, those that are not are waited for; where none is, it
    cannot be known whether they were taken, and everybody is named.
    """
    words = Words(plan.world_size)
    others = [rank for rank in range(plan.world_size) if rank != plan.rank]
    missing = _absent(table, others, lambda rank: words.present(slot, rank))
    if len(missing) < len(others):
        return f"the keys of {_named(missing)}" if missing else "its own keys"
    if landed and _readers(plan):
        return given_up(plan, table)
    unread = _absent(table, others, lambda rank: words.free(slot, rank))
    return f"the keys of {_named(unread or others)}"


def given_up(plan: Plan, table: list[int]) -> str:
    """The same of a pass whose keys are all there."""
    words, readers = Words(plan.world_size), _readers(plan)
    if not readers:  # then it is to give, and nobody takes it
        others = [rank for rank in range(plan.world_size) if rank != plan.rank]
        return f"room at {_named(_absent(table, others, words.room) or others)}"
    return f"gradients from {_named(_absent(table, readers, words.given) or readers)}"


def _readers(plan: Plan) -> list[int]:
    return sorted({send.reader for step in plan.steps for send in step.sends})


def _absent(table: list[int], ranks: Iterable[int], word: Callable[[int], int]) -> list[int]:
    return [rank for rank in ranks if not table[word(rank) // 4]]


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks}"
