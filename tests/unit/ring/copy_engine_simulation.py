"""The transport of symmetric memory without a GPU: streams are queues that advance in any order.

The transport, its links and its programmes are the real ones; memory, words and copies are of this
process. All ranks' passes are enqueued first, as far ahead as a host can be; then a scheduler takes
one operation at a time from any stream whose next one may run. Every row of keys and of gradients
says who wrote it, in which pass: what was overwritten, or read too early, is seen where it is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

import torch

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.transports.copy_engine import link, route, transport
from ring_attn_bench.ring.transports.copy_engine.memory_operations import _WAIT
from ring_attn_bench.ring.transports.copy_engine.places import GpuOfHost

ROW = 8
"""Bytes of a row: one int64, a token's of a head."""
HEADS = 2
"""Which may be pulled one after the other."""


class Fault(AssertionError):
    """What a protocol must not do."""


def number(address: int) -> ctypes.c_int32:
    return ctypes.c_int32.from_address(address)


@dataclass(frozen=True)
class Operation:
    """What a stream does next, and when it may; what is a name for people."""

    what: str
    act: Callable[[int], None]  # told the round
    ready: Callable[[], bool] = lambda: True


RESUMED = "resumed"


@dataclass(eq=False)
class Stream:
    """A queue; events are its own rank's."""

    name: str
    rank: Rank
    queue: list[Operation] = field(default_factory=list)
    done: int = 0

    @property
    def cuda_stream(self) -> Stream:
        return self

    def synchronize(self) -> None:
        """What was given to it is done when the world runs again."""

    def add(self, what: str, act: Callable[[int], None], **when: Callable[[], bool]) -> None:
        self.queue.append(Operation(f"{self.name}: {what}", act, **when))

    @property
    def next(self) -> Operation | None:
        return self.queue[self.done] if self.done < len(self.queue) else None


@dataclass(eq=False)
class Recorded:
    over: bool = False


class Event:
    """What waits for it does so for what it was when the host said so: it is recorded again."""

    def record(self, stream: Stream) -> None:
        self._last = recorded = Recorded()
        stream.rank.events.append(recorded)
        stream.add("record an event", lambda _: setattr(recorded, "over", True))

    def wait(self, stream: Stream) -> None:
        recorded = self._last
        stream.add("wait for an event", lambda _: None, ready=lambda: recorded.over)


class Driver:
    """Enqueues what the real one would; rows are copied one by one."""

    def batch(self, stream: Stream, operations) -> None:
        for x in operations:
            self._word(stream, x.operation == _WAIT, x.address, x.value)

    def _word(self, stream: Stream, waits: bool, address: int, value: int) -> None:
        def write(_: int) -> None:
            if value and number(address).value and not stream.rank.world.is_given_up:
                raise Fault(f"{stream.name} gives a signal that was not taken yet")
            number(address).value = value

        if waits:
            there = lambda: number(address).value >= value  # noqa: E731
            stream.add(f"wait for the word at {address:x}", lambda _: None, ready=there)
        else:
            stream.add(f"write {value} at {address:x}", write)

    def copy(self, stream: Stream, to: int, source: int, size: int) -> None:
        for at in range(0, size, ROW):
            stream.add("copy", lambda _, at=at: ctypes.memmove(to + at, source + at, ROW) and None)

    def copy_rectangle(self, stream: Stream, whole) -> None:
        for line in range(whole.height):
            to, source = (
                whole.address + line * whole.pitch,
                whole.source + line * whole.source_pitch,
            )
            self.copy(stream, to, source, whole.width)


class Void:
    """Writes at once what copy engines would bring."""

    def over(self, memories) -> None:
        for memory in memories:
            memory.fill_(0xFF)


class Area:
    """Memory that all ranks reach; a rank's n-th area is one with the others' n-th."""

    def __init__(self, rank: Rank, device: torch.device, size: int) -> None:
        everyones = rank.world.area(rank.areas, size)
        self.memory, self.size = everyones[rank.number], size
        self.addresses = [memory.data_ptr() for memory in everyones]
        self.of = everyones.__getitem__
        rank.areas += 1


@dataclass(eq=False)
class Rank:
    """A rank's streams and its end of the transport; it stands for its process group, too."""

    number: int
    world: World
    areas: int = 0
    events: list[Recorded] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    rounds: int = 0
    links: list[link.CopyEngineLink] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)

    def stream(self, name: str) -> Stream:
        self.streams.append(Stream(f"rank {self.number}'s {name}", self))
        return self.streams[-1]

    def enqueue(self, plan: Plan, index: int, backward: bool | str) -> None:
        """A pass, in the order of `forward.ForwardPass` and `backward.BackwardPass`.

        backward: or RESUMED, whose keys were kept.
        """
        at, stream, passes = self.transport, self.streams[0], len(self.world.passes)
        sends, cpu = any(step.sends for step in plan.steps), torch.device("cpu")

        def tag(of: int, head: int, token: int, turn: int, reader: int) -> int:
            where = ((turn * passes + index + 1) * 16 + of) * 16 + reader
            return (where * HEADS + head) * 4096 + token

        def write(rows, owner: int, head: int = 0, first: int = 0, reader: int = 0) -> None:
            for i, row in enumerate(rows):

                def put(turn: int, row=row, token: int = first + i) -> None:
                    row.fill_(tag(owner, head, token, turn, reader))

                stream.add("write a row", put)

        def look(what: str, rows, owner: int, head: int, first: int, reader: int = 0) -> None:
            for i, row in enumerate(rows):

                def check(turn: int, row=row, token: int = first + i) -> None:
                    right = int(row) == tag(owner, head, token, turn, reader)
                    if not right and not self.world.is_given_up:
                        raise Fault(f"rank {self.number}, pass {index}: {what} are others'")

                stream.add(f"look at {what}", check)

        def launch(step, landed, words=None, groups: int = 1) -> None:
            """Heads in turn: of each, pieces in turn, when their words say that they are there."""
            for head in range(HEADS):
                for piece, fetch in enumerate(step.fetches):
                    if words is not None:
                        word = words[1 + piece * groups + head * groups // HEADS]
                        there = lambda word=word, lost=words[0]: bool(word) or bool(lost)  # noqa: E731
                        stream.add("wait in a kernel", lambda _: None, ready=there)
                    rows = landed[head, fetch.landing.slice]
                    look("keys", rows, fetch.owner, head, fetch.tokens.start)

        def give(step_index: int) -> None:
            fetches = plan.steps[step_index].fetches
            partials = torch.zeros(plan.steps[step_index].landing_tokens, 1, dtype=torch.int64)
            for fetch in fetches:
                part, first = partials[fetch.landing.slice], fetch.tokens.start
                write(part, fetch.owner, 0, first, reader=1 + self.number)
            link.give(step_index, partials)
            self.kept.append(partials)

        def take(outstanding: int) -> None:
            for tokens, partial in list(link.received(outstanding)):
                reader = 1 + self._reader_of(partial)
                look("gradients", partial, self.number, 0, tokens.start, reader)

        gathers = any(step.gathered for step in plan.steps)
        if backward == RESUMED:
            link = at.resume(plan)
            for step_index, step in enumerate(plan.steps):
                if step.gathered is not None:
                    give(step_index)
                elif step_index and not gathers:
                    take(plan.slots - 1)
                    give(step_index)
            take(0)
            link.finish()
            self.links.append(link)
            return
        at.reserve(plan.tokens, HEADS, torch.int64, cpu)
        sent = plan.tokens if sends else 0
        keys = at.outgoing(sent, HEADS, torch.int64, cpu).view(HEADS, sent, 1)
        for head in range(HEADS):
            write(keys[head], self.number, head)
        link = at.begin(plan)
        link.publish(keys)
        for step_index, step in enumerate(plan.steps):
            for due in plan.due[step_index]:
                link.post(due)
            if step.gathered is not None:
                landed, *about = link.arriving(step_index)
                launch(step, landed, *about)
                if backward:
                    give(step_index)
                    launch(step, landed)
            elif not gathers:
                launch(step, link.landed(step_index) if step_index else None)
                if backward and step_index:
                    take(plan.slots - 1)
                    give(step_index)
        if backward:
            take(0)
        link.finish()
        self.links.append(link)
        self.kept.append(keys)

    def _reader_of(self, partial) -> int:
        """By whose part of the inbox it lies in: this rank has none."""
        inbox, others = self.transport._inbox, len(self.world.ranks) - 1
        place = (partial.data_ptr() - inbox.memory.data_ptr()) // (inbox.size // others)
        return place + (place >= self.number)

    def again(self) -> None:
        """Begins the next round, if this one is over and there is one: as a graph is replayed."""
        if self.rounds + 1 >= self.world.rounds or any(s.next for s in self.streams):
            return
        self.rounds += 1
        for event in self.events:
            event.over = False
        for stream in self.streams:
            stream.done = 0


class World:
    """All ranks of a ring. passes: each all ranks' plans, and whether it is a backward.

    rounds: how often the passes are replayed. smallest: bytes that heads must have to be pulled
    apart. is_given_up: what is read has no meaning any more.
    """

    is_given_up = False

    def __init__(
        self,
        monkeypatch,
        passes: list[tuple[tuple[Plan, ...], bool | str]],
        rounds: int = 1,
        smallest: int = route.SMALLEST,
    ):
        self.passes, self.rounds = passes, rounds
        self._areas: list[list[torch.Tensor]] = []
        self._at = 0
        self._patch(monkeypatch, len(passes[0][0]), smallest)
        self.ranks = [Rank(number, self) for number in range(len(passes[0][0]))]
        for rank in self._in_turn():
            rank.stream("launches")
            rank.transport = transport.CopyEngine(rank, RingOptions())
        largest = max(plans[0].tokens for plans, _ in passes)
        for rank in self._in_turn():
            rank.transport.reserve(largest, HEADS, torch.int64, torch.device("cpu"))
            rank.transport.reserve_inbox(largest * ROW)

    def enqueue(self, dead: int | None = None) -> World:
        """dead: a rank that makes the first pass and no other."""
        for rank in self._in_turn():
            for index, (plans, backward) in enumerate(self.passes):
                if not (index and rank.number == dead):
                    rank.enqueue(plans[rank.number], index, backward)
        return self

    def give_up(self, rank: Rank, pass_: int) -> str:
        """What a rank's pass waits for, by its transport, which then lets it go on."""
        self.is_given_up, self._at = True, rank.number
        link = rank.links[pass_]
        groups = link._route.head_groups if hasattr(link, "_route") else 0
        awaited = rank.transport.awaited(link._plan, link._slot, groups)
        rank.transport.release()
        return awaited

    def run(self, random: Random, changes: int = 6) -> None:
        """Every stream to its end, the one of highest priority first; some change at times.

        Few changes of priority find most orders that matter (Burckhardt et al. 2010, A randomized
        scheduler with probabilistic guarantees of finding bugs).
        """
        streams = [stream for rank in self.ranks for stream in rank.streams]
        random.shuffle(streams)
        length = self.rounds * sum(len(stream.queue) for stream in streams)
        at = {random.randrange(max(1, length)) for _ in range(changes)}
        for step in range(length + 1):
            found = next((s for s in streams if s.next is not None and s.next.ready()), None)
            if found is None:
                break
            found.next.act(found.rank.rounds)
            found.done += 1
            if step in at:
                streams.remove(found)
                streams.append(found)
            if found.next is None:
                found.rank.again()
        waiting = [stream.next.what for stream in streams if stream.next is not None]
        if waiting:
            raise Fault(f"nothing goes on: {waiting}")
        for rank in () if self.is_given_up else self.ranks:
            table = rank.transport._table.memory.view(torch.int32)
            if table.tolist()[: len(self._first)] != self._first:
                raise Fault(f"rank {rank.number}'s words are not as they were: {table.tolist()}")
            if rank.transport._arrived.any():
                raise Fault(f"rank {rank.number}'s words still say that keys have landed")

    @property
    def _first(self) -> list[int]:
        return self.ranks[0].transport._words.first()

    def area(self, number: int, size: int) -> list[torch.Tensor]:
        """All ranks' memory; made when the first of them asks."""
        if number == len(self._areas):
            self._areas.append([torch.zeros(size, dtype=torch.uint8) for _ in self.ranks])
        return self._areas[number]

    def _in_turn(self) -> Iterator[Rank]:
        for rank in self.ranks:
            self._at = rank.number
            yield rank

    def _patch(self, monkeypatch, size: int, smallest: int) -> None:
        """What a CUDA device would be asked for."""
        current = lambda: self.ranks[self._at]  # noqa: E731
        cuda = SimpleNamespace(
            current_device=lambda: 0, is_current_stream_capturing=lambda: False,
            synchronize=lambda device: None,
            current_stream=lambda device: current().streams[0], stream=lambda _: nullcontext(),
            Event=Event,
        )  # fmt: skip
        raw = SimpleNamespace(_cuda_getCurrentStream=lambda device: (self._at,))
        names = {name: getattr(torch, name) for name in ("tensor", "zeros", "int32", "uint8")}
        fake = SimpleNamespace(cuda=cuda, _C=raw, device=lambda *_: torch.device("cpu"), **names)
        places = [GpuOfHost("host", f"gpu {rank}", "") for rank in range(size)]
        group = SimpleNamespace(get_rank=lambda g: g.number, get_world_size=lambda g: size)
        watch = SimpleNamespace(check=lambda: None, follow=lambda *_: None)
        for name, value in {
            "torch": fake, "dist": group, "Area": Area, "driver": Driver,
            "everyones": lambda g: places, "timeout_of": lambda g: None,
            "Watch": lambda *_: watch, "Void": Void,
            "own_stream": lambda *_, **__: current().stream("copies"),
        }.items():  # fmt: skip
            monkeypatch.setattr(transport, name, value)
        monkeypatch.setattr(route, "SMALLEST", smallest)
        monkeypatch.setattr(transport.CopyEngine, "_meet", lambda self: None)
