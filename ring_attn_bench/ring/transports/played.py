"""Ranks of a ring in fewer processes: partners play one rank each, and all others to each other.

A rank's results then mean nothing, because the keys that it reads are not those of their owners;
its launches and what travels are those of the ring that it plays a rank of. What a process sends is
what its partner fetches. For ranks r and W - 1 - r under causal masks, or none, that is what
they send in their ring too, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ring_attn_bench.plan.fetches import Send
from ring_attn_bench.plan.plans import Plan, Step


@dataclass(frozen=True, slots=True)
class Part:
    """Which rank a process is, and where it finds the others.

    process_of: by rank, the process that plays it to this one. called: by rank, what that process
    takes this one for: whom it reads from it calls its owner, and the other way around.
    """

    rank: int
    world_size: int
    process_of: tuple[int, ...]
    called: tuple[int, ...]


def own_part(rank: int, world_size: int) -> Part:
    """Where every process is its own rank."""
    return Part(rank, world_size, tuple(range(world_size)), (rank,) * world_size)


def played_part(process: int, playing: Sequence[int], world_size: int) -> Part:
    """Of a process in a ring of that many ranks; playing: each process's rank, partners in a row.

    Whoever is i ranks before this one is played by the partner as the rank before which it sees
    this one i ranks behind: so both name each word, slot and message alike.
    """
    partner = partner_of(process)
    rank, other = playing[process], playing[partner]
    places = [partner] * world_size
    places[rank] = process
    called = tuple((rank + other - one) % world_size for one in range(world_size))
    return Part(rank, world_size, tuple(places), called)


def partner_of(process: int) -> int:
    """0 and 1, 2 and 3, ..."""
    return process ^ 1


def played_plan(own: Plan, partner: Plan) -> Plan:
    """The rank's plan, which sends what the partner's fetches."""
    world = own.world_size

    def step(mine: Step, theirs: Step) -> Step:
        readers = [(own.rank + partner.rank - fetch.owner) % world for fetch in theirs.fetches]
        sends = [Send(r, f.tokens) for r, f in zip(readers, theirs.fetches, strict=True)]
        return replace(mine, sends=tuple(sends))

    steps = tuple(step(*pair) for pair in zip(own.steps, partner.steps, strict=True))
    return replace(own, steps=steps)
