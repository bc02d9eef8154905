"""The memory operations of a pass, laid out once for a plan and a slot: addresses do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ring_attn_bench.plan.fetches import Fetch
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.ring.transports.copy_engine.memory_operations import Batch, MemoryDriver
from ring_attn_bench.ring.transports.copy_engine.words import Words
from ring_attn_bench.ring.transports.played import Part


@dataclass(frozen=True, slots=True)
class Move:
    """One copy between this rank and a fetch's owner, and what comes before and after it."""

    fetch: Fetch
    before: Batch
    after: Batch
    head_group: int = 0


@dataclass(frozen=True, slots=True)
class Programme:
    """meet: tells all others that the slot is written, and waits for all of them. pulls, pushes: by
    step; the last pull gives the others' slots back. nothing_read: does, where there is no pull.
    taken: by step, waits for gradients. over: makes the words of landed pieces 0 again.
    emptied: gives the inbox's turn back, as well.
    """

    meet: Batch
    pulls: tuple[tuple[Move, ...], ...]
    nothing_read: Batch
    pushes: tuple[tuple[Move, ...], ...]
    taken: tuple[Batch, ...]
    over: Batch
    emptied: Batch


def programme(
    at: MemoryDriver, plan: Plan, slot: int, part: Part, tables: Sequence[int], arrived: int,
    head_groups: int,
) -> Programme:  # fmt: skip
    """tables: the addresses of all ranks' tables of words; arrived: of this rank's word of piece 0.

    The n-th fetch of the plan is piece n. head_groups: how many parts of its heads it is pulled in;
    all pieces' first parts come before their second ones.
    """
    me, words, called = plan.rank, Words(plan.world_size), part.called
    others = [rank for rank in range(plan.world_size) if rank != me]
    readers = _unique(send.reader for step in plan.steps for send in step.sends)
    fetches = sum(len(step.fetches) for step in plan.steps)

    def free(batch: Batch) -> Batch:
        for rank in others:
            batch.write(tables[rank] + words.free(slot, called[rank]))
        return batch

    def pull(fetch: Fetch, piece: int, group: int, _: bool, __: bool) -> Move:
        word = 1 + (piece - 1) * head_groups + group
        after = Batch(at).write(arrived + 4 * word)
        if piece == fetches and group == head_groups - 1:
            free(after)
        return Move(fetch, Batch(at), after, group)

    def push(fetch: Fetch, piece: int, group: int, first: bool, last: bool) -> Move:
        before, after = Batch(at), Batch(at)
        if first:
            before.take(tables[me] + words.room(fetch.owner))
        if last:
            after.write(tables[fetch.owner] + words.given(called[fetch.owner]))
        return Move(fetch, before, after)

    meet, over, emptied = Batch(at), Batch(at), Batch(at)
    for rank in others:
        meet.write(tables[rank] + words.present(slot, called[rank]))
    meet.take(*(tables[me] + words.present(slot, rank) for rank in others))
    for word in range(1, 1 + fetches * head_groups):
        over.write(arrived + 4 * word, 0)
        emptied.write(arrived + 4 * word, 0)
    for rank in readers:
        emptied.write(tables[rank] + words.room(called[rank]))
    return Programme(
        meet,
        _moves(plan, pull, head_groups),
        Batch(at) if fetches else free(Batch(at)),
        _moves(plan, push, 1),
        tuple(_taken(at, plan, index, tables[me], words) for index in range(len(plan.steps))),
        over,
        emptied,
    )


def _taken(at: MemoryDriver, plan: Plan, index: int, table: int, words: Words) -> Batch:
    readers = _unique(send.reader for send in plan.steps[index].sends)
    return Batch(at).take(*(table + words.given(reader) for reader in readers))


def _moves(
    plan: Plan, move: Callable[[Fetch, int, int, bool, bool], Move], head_groups: int
) -> tuple[tuple[Move, ...], ...]:
    """By step; told the fetch's number from 1 on, which part of its heads, and whether it is its
    owner's first, and last. An owner's fetches are all in one step.
    """
    steps, before = [], 0
    for step in plan.steps:
        parts = [
            (fetch, before + number, group)
            for group in range(head_groups)
            for number, fetch in enumerate(step.fetches, 1)
        ]
        owners = [fetch.owner for fetch, _, _ in parts]
        steps.append(
            tuple(
                move(*part, part[0].owner not in owners[:at], part[0].owner not in owners[at + 1 :])
                for at, part in enumerate(parts)
            )
        )
        before += len(step.fetches)
    return tuple(steps)


def _unique(ranks: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(ranks))
