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


def programme(at: Driver, plan: Plan, slot: int, tables: Sequence[int], arrived: int) -> Programme:
    """tables: the addresses of all ranks' tables of words; arrived: of this rank's word of piece 0.

    The n-th fetch of the plan is piece n.
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

    def pull(fetch: Fetch, piece: int, first: bool, last: bool) -> Move:
        before, after = Batch(at), Batch(at).write(arrived + 4 * piece)
        if first:
            before.take(tables[me] + words.published(slot, fetch.owner))
        if last:
            after.write(tables[fetch.owner] + words.free(slot, me))
        return Move(fetch, before, after)

    def push(fetch: Fetch, piece: int, first: bool, last: bool) -> Move:
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
        _moves(plan, pull),
        _moves(plan, push),
        tuple(
            batch(lambda b, r: b.take(tables[me] + words.given(r)), _readers_of(plan, index))
            for index in range(len(plan.steps))
        ),
        batch(lambda b, r: b.write(tables[r] + words.room(me)), readers),
    )


def _readers_of(plan: Plan, index: int) -> list[int]:
    return _unique(send.reader for send in plan.steps[index].sends)


def _moves(
    plan: Plan, move: Callable[[Fetch, int, bool, bool], Move]
) -> tuple[tuple[Move, ...], ...]:
    """By step; told the fetch's number from 1 on, and whether it is its owner's first, and last.

    An owner's fetches are all in one step.
    """
    found, number = [], 0
    for step in plan.steps:
        owners = [fetch.owner for fetch in step.fetches]
        moves = []
        for at, fetch in enumerate(step.fetches):
            number += 1
            first, last = fetch.owner not in owners[:at], fetch.owner not in owners[at + 1 :]
            moves.append(move(fetch, number, first, last))
        found.append(tuple(moves))
    return tuple(found)


def _unique(ranks: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(ranks))
