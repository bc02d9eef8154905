"""The memory operations of a pass, laid out once for a plan and a slot: addresses do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ring_attn_bench.plan import Fetch, Plan
from ring_attn_bench.ring.transports.copy_engine.memory_operations import Batch, Driver
from ring_attn_bench.ring.transports.copy_engine.words import Words


@dataclass(frozen=True, slots=True)
class Move:
    """One copy between this rank and a fetch's owner, and what comes before and after it."""

    fetch: Fetch
    before: Batch
    after: Batch
    head_group: int = 0


@dataclass(frozen=True, slots=True)
class Programme:
    """publish: tells the readers that the slot is written. unread: gives the turn back to ranks
    that nothing is pulled from. present: waits for all owners. pulls, pushes: by step. taken: by
    step, waits for gradients. emptied: gives the inbox's turn back.
    """

    publish: Batch
    unread: Batch
    present: Batch
    pulls: tuple[tuple[Move, ...], ...]
    pushes: tuple[tuple[Move, ...], ...]
    taken: tuple[Batch, ...]
    emptied: Batch


def programme(
    at: Driver, plan: Plan, slot: int, tables: Sequence[int], arrived: int, head_groups: int
) -> Programme:
    """tables: the addresses of all ranks' tables of words; arrived: of this rank's word of piece 0.

    The n-th fetch of the plan is piece n. head_groups: how many parts of its heads it is pulled in;
    all pieces' first parts come before their second ones.
    """
    me, words = plan.rank, Words(plan.world_size)
    others = [rank for rank in range(plan.world_size) if rank != me]
    readers = _unique(send.reader for step in plan.steps for send in step.sends)
    owners = _unique(fetch.owner for step in plan.steps for fetch in step.fetches)

    def batch(kind: Callable[[Batch, int], Batch], ranks: Sequence[int]) -> Batch:
        made = Batch(at)
        for rank in ranks:
            kind(made, rank)
        return made

    def pull(fetch: Fetch, piece: int, group: int, first: bool, last: bool) -> Move:
        word = 1 + (piece - 1) * head_groups + group
        before, after = Batch(at), Batch(at).write(arrived + 4 * word)
        if first:
            before.take(tables[me] + words.published(slot, fetch.owner))
        if last:
            after.write(tables[fetch.owner] + words.free(slot, me))
        return Move(fetch, before, after, group)

    def push(fetch: Fetch, piece: int, group: int, first: bool, last: bool) -> Move:
        before, after = Batch(at), Batch(at)
        if first:
            before.take(tables[me] + words.room(fetch.owner))
        if last:
            after.write(tables[fetch.owner] + words.given(me))
        return Move(fetch, before, after)

    return Programme(
        batch(
            lambda b, r: b.write(tables[r] + words.published(slot, me)).write(
                tables[r] + words.present(slot, me)
            ),
            readers,
        ),
        batch(
            lambda b, r: b.write(tables[r] + words.free(slot, me)),
            [rank for rank in others if rank not in owners],
        ),
        batch(lambda b, r: b.take(tables[me] + words.present(slot, r)), owners),
        _moves(plan, pull, head_groups),
        _moves(plan, push, 1),
        tuple(
            batch(lambda b, r: b.take(tables[me] + words.given(r)), _readers_of(plan, index))
            for index in range(len(plan.steps))
        ),
        batch(lambda b, r: b.write(tables[r] + words.room(me)), readers),
    )


def _readers_of(plan: Plan, index: int) -> list[int]:
    return _unique(send.reader for send in plan.steps[index].sends)


def _moves(
    plan: Plan, move: Callable[[Fetch, int, int, bool, bool], Move], head_groups: int
) -> tuple[tuple[Move, ...], ...]:
    """By step; told the fetch's number from 1 on, which part of its heads, and whether it is its
    owner's first, and last. An owner's fetches are all in one step.
    """
    found, before = [], 0
    for step in plan.steps:
        parts = [
            (fetch, before + number, group)
            for group in range(head_groups)
            for number, fetch in enumerate(step.fetches, 1)
        ]
        owners = [fetch.owner for fetch, _, _ in parts]
        found.append(
            tuple(
                move(*part, part[0].owner not in owners[:at], part[0].owner not in owners[at + 1 :])
                for at, part in enumerate(parts)
            )
        )
        before += len(step.fetches)
    return tuple(found)


def _unique(ranks: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(ranks))
