"""Partners of a played ring name every word alike: none waits for one that nobody writes."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.transports.copy_engine.programme import programme
from ring_attn_bench.ring.transports.copy_engine.words import SLOTS, Words
from ring_attn_bench.ring.transports.played import own_part, played_part, played_plan

ABLE = Abilities(frozenset(Form), positions=True)
TABLE = 1 << 20
"""Between the tables of two processes."""
ARRIVED = 1 << 30
WAIT, WRITE = 1, 2


class Host:
    """Tables of words of some processes, and streams that have to wait for them."""

    def __init__(self, world_size: int, processes: int) -> None:
        self.words = {
            (1 + process) * TABLE + 4 * at: word
            for process in range(processes)
            for at, word in enumerate(Words(world_size).first())
        }
        self.first = dict(self.words)
        self.events: dict[int, int] = {}
        self.todo: list[list[tuple[int, int, int]]] = []
        self.written: list[int] = []

    def batch(self, stream: int, operations) -> None:
        """A stream's operations, each of which is done when it can be."""
        self.todo[stream] += [(x.operation, x.address, x.value) for x in operations]

    def stream(self) -> int:
        self.todo.append([])
        return len(self.todo) - 1

    def written_at(self, process: int) -> int:
        """How often a word of its table was written."""
        return sum((1 + process) * TABLE <= x < (2 + process) * TABLE for x in self.written)

    def behind(self, stream: int, other: int) -> None:
        """Lets a stream wait for what another has been given so far."""
        event = -1 - len(self.events)
        self.events[event] = 0
        self.todo[other].append((WRITE, event, 1))
        self.todo[stream].append((WAIT, event, 1))

    def run(self, seed: int = 0) -> list[tuple[int, int, int]]:
        """One operation after the other, of any stream that can go on; what waits in the end."""
        random = Random(seed)
        while able := [queue for queue in self.todo if queue and self._can(*queue[0])]:
            self._do(*random.choice(able).pop(0))
        return [queue[0] for queue in self.todo if queue]

    def _can(self, operation: int, address: int, value: int) -> bool:
        found = self.words if address > 0 else self.events
        return operation == WRITE or found[address] == value

    def _do(self, operation: int, address: int, value: int) -> None:
        if operation == WAIT or address >= ARRIVED:
            return
        if address > 0:
            self.written.append(address)
            self.words[address] = value
        else:
            self.events[address] = value


def enqueue(host: Host, plan, part, slot: int, streams) -> None:
    """What a process does in a backward pass, on streams as `CopyEngine` has them."""
    tables = [(1 + process) * TABLE for process in part.process_of]
    at = programme(host, plan, slot, part, tables, ARRIVED, 1)
    main, pulls, pushes = streams
    words, own = Words(part.world_size), tables[part.rank]
    for rank in range(part.world_size):
        if rank != part.rank:
            host.todo[main] += [(WAIT, own + words.free(slot, rank), 1)]
            host.todo[main] += [(WRITE, own + words.free(slot, rank), 0)]
    at.meet.enqueue(main)
    host.behind(pulls, main)
    at.nothing_read.enqueue(pulls)
    for queue, moves in ((pulls, at.pulls), (pushes, at.pushes)):
        host.behind(queue, main)
        for move in (move for step in moves for move in step):
            move.before.enqueue(queue)
            move.after.enqueue(queue)
    for taken in at.taken:
        taken.enqueue(main)
    at.emptied.enqueue(main)
    host.behind(main, pulls)
    host.behind(main, pushes)


CASES = [
    (partition, world_size, rank, other, window)
    for partition, world_size, window in product(PARTITIONS, (2, 4, 8), ((-1, -1), (5, 0)))
    for rank, other in dict.fromkeys([(0, world_size - 1), (0, 0), (world_size - 1,) * 2, (1, 0)])
]


@pytest.mark.parametrize(("partition", "world_size", "rank", "other", "window"), CASES)
def test_every_word_that_is_waited_for_is_written_and_none_is_left(
    partition, world_size, rank, other, window
):
    band = Mask.from_window_size(True, window).band
    for grouping in (None, (world_size - 1,)):
        found = plans(Layout(PARTITIONS[partition], world_size, 8, band, 2, grouping), ABLE)
        playing = (rank, other)
        host = Host(world_size, 2)
        streams = [[host.stream() for _ in range(3)] for _ in playing]
        for turn in range(2 * SLOTS):
            for process in (0, 1):
                own, partner = found[playing[process]], found[playing[1 - process]]
                part = played_part(process, playing, world_size)
                enqueue(host, played_plan(own, partner), part, turn % SLOTS, streams[process])
        assert host.run(seed=rank) == []
        assert host.words == host.first


@pytest.mark.parametrize("partition", PARTITIONS)
def test_ranks_from_both_ends_write_as_many_words_as_in_their_ring(partition):
    band = Mask.from_window_size(True, (-1, -1)).band
    found = plans(Layout(PARTITIONS[partition], 4, 8, band), ABLE)
    host, played, ends = Host(4, 4), Host(4, 2), (0, 3)
    for rank in range(4):
        enqueue(host, found[rank], own_part(rank, 4), 0, [host.stream() for _ in range(3)])
    for process, rank in enumerate(ends):
        own, part = played_plan(found[rank], found[3 - rank]), played_part(process, ends, 4)
        enqueue(played, own, part, 0, [played.stream() for _ in range(3)])

    assert host.run() == played.run() == []
    assert [host.written_at(rank) for rank in ends] == [played.written_at(at) for at in (0, 1)]
