"""Keys by copy engines from symmetric memory: inside one host, between GPUs that reach each other.

A rank's keys lie where its peers can read them; each peer pulls what it needs by copy engine, which
takes no multiprocessor, and streams signal each other by words in memory (`words`). So a transfer
runs beside any kernel, and a kernel can wait for one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.carriers import message_device, timeout_of
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.packing import PackedKeys, Packing
from ring_attn_bench.ring.transports.copy_engine.areas import Area
from ring_attn_bench.ring.transports.copy_engine.link import CopyEngineLink, HomeLink
from ring_attn_bench.ring.transports.copy_engine.memory_operations import (
    Batch,
    MemoryDriver,
    driver,
)
from ring_attn_bench.ring.transports.copy_engine.missing import awaited, given_up
from ring_attn_bench.ring.transports.copy_engine.places import everyones, here, why_apart
from ring_attn_bench.ring.transports.copy_engine.programme import Programme, programme
from ring_attn_bench.ring.transports.copy_engine.route import MOST_HEAD_GROUPS, Home, Route
from ring_attn_bench.ring.transports.copy_engine.sizes import inbox_bytes, outgoing_bytes
from ring_attn_bench.ring.transports.copy_engine.streams import own_stream
from ring_attn_bench.ring.transports.copy_engine.void import Void
from ring_attn_bench.ring.transports.copy_engine.watch import Watch
from ring_attn_bench.ring.transports.copy_engine.words import SLOTS, Words
from ring_attn_bench.ring.transports.played import Part, own_part

KEPT, KEPT_OF_BATCHES = 256, 32
"""Programmes that are kept at most; fewer where each batch of documents has its own."""


class CopyEngine:
    """Over a group of ranks on one host, each with a GPU, which may be shared for tests only.

    Symmetric memory is made at the first pass, or by `reserve`, and grows between passes: as a
    collective that every rank enters, because all ranks' shapes are alike.
    """

    hands_on = True
    symmetric = True

    def __init__(
        self, group: dist.ProcessGroup, options: RingOptions, part: Part | None = None
    ) -> None:
        self._group, self._options = group, options
        self._part = own_part(dist.get_rank(group), dist.get_world_size(group))
        # played: an owner's keys lie where no other's do, as if they came from another memory
        self._regions = SLOTS
        self._filled: torch.dtype | None = None
        if part is not None:
            self._part, self._regions = part, SLOTS + part.world_size
        self._world = self._part.world_size
        own, processes = dist.get_rank(group), range(dist.get_world_size(group))
        self._peers = [process for process in processes if process != own]
        self._device_index = torch.cuda.current_device()
        self.device = torch.device("cuda", self._device_index)
        loaded = driver()
        assert loaded is not None  # unsupported asked
        self.driver: MemoryDriver = loaded
        places = everyones(group)
        self.shares_gpu = len({place.gpu for place in places}) < len(places)
        # a piece a fetch, of which an owner has two at most in any partition
        self._parts = 4 * -(-(1 + 2 * self._world * MOST_HEAD_GROUPS) // 4)
        # memory before streams: it makes the device's context this thread's, where nothing else has
        self._arrived = torch.zeros(SLOTS, self._parts, dtype=torch.int32, device=self.device)
        self._arrived_at = [words.data_ptr() for words in self._arrived]
        self.pulls, self.pushes = (own_stream(loaded, self.device) for _ in range(2))
        self._aside = own_stream(loaded, self.device, priority=-1)
        self.pulls_at, self.pushes_at = self.pulls.cuda_stream, self.pushes.cuda_stream
        self._edge = self.event()
        self._words = Words(self._world)
        self._table = Area(group, self.device, self._words.bytes)
        first = torch.tensor(self._words.first(), dtype=torch.int32, device="cpu")
        first = first.view(torch.uint8)
        self._table.memory[: len(first)].copy_(first)
        self._own_table = self._table.memory.data_ptr()
        self._outgoing: Area | None = None
        self._inbox: Area | None = None
        self._outgrown: list[Area] = []
        self._slot = 0
        self._stream: torch.cuda.Stream | None = None
        self._stream_is: tuple[int, ...] = ()
        self._last: torch.cuda.Stream | None = None
        self._capturing = self._captured = False
        self._claims = tuple(self._claim(slot).laid_out() for slot in range(SLOTS))
        self._programmes: dict[tuple[int, int, int], tuple[Plan, Programme]] = {}
        self._rooms: dict[Hashable, tuple[PackedKeys, ...]] = {}
        self._routes: dict[Hashable, Route] = {}
        self._homes: dict[int, Home] = {}
        self._void = Void()
        self._watch = Watch(self, timeout_of(group) or timedelta(minutes=10))
        self._meet()

    @property
    def arrives(self) -> bool:
        """Whether launches can wait for keys: not for those of this same GPU, see `arriving`."""
        return not self.shares_gpu

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """Why these ranks cannot read each other's memory, or None; the same on all of them."""
        return why_apart(everyones(group))

    @staticmethod
    def lacks_here() -> str | None:
        """What this machine alone lacks for it, or None; other ranks may lack more."""
        lacks = here().lacks
        return f"this machine has {lacks}" if lacks else None

    def played(self, part: Part) -> CopyEngine:
        """The same between processes that play ranks of a larger ring; a collective of them.

        Each has a table of words, and parts of an inbox, for all ranks of that ring, and a place
        in memory for every owner that it plays to its partner.
        """
        return CopyEngine(self._group, self._options, part)

    def reserve(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """Makes room for keys (tokens, width) of every rank; a collective where there is none yet.

        Raises InvalidArgument for another device, and where a graph is being captured.
        """
        self._watch.check()
        if device != self.device:
            raise InvalidArgument(
                f"the tensors are on {device}, and this ring's memory is on {self.device}, which "
                "was the current device when its context was made; call torch.cuda.set_device "
                "before."
            )
        size = outgoing_bytes(tokens * width * dtype.itemsize, self._regions)
        if self._outgoing is None or self._outgoing.size < size:
            self._rooms.clear()
            self._routes.clear()
            self._outgoing, self._filled = self._grown(self._outgoing, size), None
        self._fill(self._outgoing.memory, dtype)

    def room(
        self, packing: Packing, tokens: int, sends: bool, dtype: torch.dtype, device: torch.device
    ) -> PackedKeys:
        """`reserve` and `outgoing` for keys of a kind, whose views are kept.

        By heads, so that early heads can be pulled first. sends: whether anybody reads them.
        """
        kind = packing, tokens, sends, dtype, device
        room = self._rooms.get(kind)
        if room is None or (self._regions > SLOTS and self._filled is not dtype):
            room = self._made_room(*kind)
        self._watch.check()
        return room[self._claimed()]

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """This rank's slot for the next pass, when the peers have read what was in it."""
        return self._memory_of(self._claimed(), tokens, width, dtype)

    def begin(self, plan: Plan) -> CopyEngineLink:
        """This rank's end of a pass."""
        assert self._stream is not None  # its slot was claimed
        return CopyEngineLink(self, plan, self._slot, self._stream)

    def resume(self, plan: Plan) -> HomeLink:
        """This rank's end of a backward whose keys are here already."""
        self._watch.check()
        return HomeLink(self, plan, self._entered(), self._home(plan))

    def route(self, plan: Plan, slot: int, keys: Tensor) -> Route:
        """What passes of the plan with such keys have in common; kept while memory stays."""
        key = id(plan), slot, keys.shape, keys.dtype
        route = self._routes.get(key)
        if route is None:
            if len(self._routes) >= _most(plan):
                self._routes.clear()
            route = self._routes[key] = Route(self, plan, slot, keys)
        return route

    def _home(self, plan: Plan) -> Home:
        key = id(plan)
        home = self._homes.get(key)
        if home is None:
            if len(self._homes) >= _most(plan):
                self._homes.clear()
            home = self._homes[key] = Home(plan, self.programme(plan, 0, 1))
        return home

    def event(self) -> torch.cuda.Event:
        """A new CUDA event."""
        return torch.cuda.Event()

    def behind(self, waiting: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
        """Lets a stream wait for all that another was given.

        One event serves for all: what was told to wait does so for what the event was then.
        """
        self._edge.record(other)
        self._edge.wait(waiting)

    def programme(self, plan: Plan, slot: int, head_groups: int) -> Programme:
        """The plan's operations; kept, with the plan, which is told by its identity."""
        entry = self._programmes.get((id(plan), slot, head_groups))
        if entry is None:
            if len(self._programmes) >= _most(plan):
                self._programmes.clear()
            made = programme(
                self.driver, plan, slot, self._part,
                [self._table.addresses[place] for place in self._part.process_of],
                self._arrived_at[slot], head_groups,
            )  # fmt: skip
            self._programmes[id(plan), slot, head_groups] = entry = plan, made
        return entry[1]

    def words_of(self, slot: int) -> Tensor:
        """`tensors.Gathering.arrived`, and more of them."""
        return self._arrived[slot]

    def outgoing_of(self, rank: int, slot: int) -> int:
        """The address of a rank's slot."""
        assert self._outgoing is not None
        region = slot if self._regions == SLOTS else SLOTS + rank
        start = region * (self._outgoing.size // self._regions)
        return self._outgoing.addresses[self._part.process_of[rank]] + start

    def reserve_inbox(self, size: int) -> None:
        """Makes room for so many bytes from every peer; a collective where there is too little."""
        size = inbox_bytes(size, self._world)
        if self._inbox is None or self._inbox.size < size:
            self._routes.clear()
            self._homes.clear()
            self._inbox = self._grown(self._inbox, size)

    def inbox_of(self, rank: int) -> int:
        """The address of this rank's part of a rank's inbox."""
        assert self._inbox is not None
        called = self._part.called[rank]
        owner = (called + rank - self._part.rank) % self._world
        start = self._place_in_inbox(called, owner)
        return self._inbox.addresses[self._part.process_of[rank]] + start

    def inbox_part(self, reader: int, tokens: Range, like: Tensor) -> Tensor:
        """What a reader has given for those tokens, (tokens, width) as `like` is."""
        assert self._inbox is not None
        row = like.shape[1] * like.element_size()
        start = self._place_in_inbox(reader, self._part.rank) + tokens.start * row
        part = self._inbox.memory[start : start + len(tokens) * row]
        return part.view(like.dtype).view(len(tokens), like.shape[1])

    def ended(self, plan: Plan, slot: int, head_groups: int, stream: torch.cuda.Stream) -> None:
        """A pass is enqueued to its end: from now on it is watched."""
        if not self._capturing:
            self._watch.follow(stream, plan, slot, head_groups)

    @property
    def kept_bytes(self) -> int:
        """Bytes of symmetric memory on this rank."""
        areas = (self._table, self._outgoing, self._inbox, *self._outgrown)
        return sum(area.size for area in areas if area is not None)

    def close(self) -> None:
        """Ends the thread that watches."""
        self._watch.end()

    def awaited(self, plan: Plan, slot: int, head_groups: int) -> str:
        """What a pass waits for that does not end; asked from another thread."""
        with torch.cuda.stream(self._aside):
            parts = head_groups * sum(len(step.fetches) for step in plan.steps)
            landed = all(self._arrived[slot].to("cpu").tolist()[1 : 1 + parts])
            table = self._table.memory[: self._words.bytes].view(torch.int32).to("cpu").tolist()
        if not head_groups:  # no keys travel
            return given_up(plan, table)
        return awaited(plan, slot, table, landed=landed)

    def release(self) -> None:
        """Lets everything go on that waits on this rank, to no good; from another thread.

        What comes from peers from now on is NaN, in case it was not there: the pass cannot end in
        numbers that look right. Kernels that wait look at words, and write NaN.
        """
        with torch.cuda.stream(self._aside):
            self._void.over(self._from_peers())
            end = Batch(self.driver)
            for address in self._arrived_at:
                end.write(address)
            for offset in range(0, self._words.bytes, 4):
                end.write(self._own_table + offset)
            end.enqueue(self._aside.cuda_stream)
        self._aside.synchronize()

    def _from_peers(self) -> Iterator[Tensor]:
        """What a pass reads that others write: their keys, which lie with them, and gifts."""
        if self._outgoing is not None:
            yield from map(self._outgoing.of, self._peers)
        if self._inbox is not None:
            yield self._inbox.memory
        for area in self._outgrown:
            yield from map(area.of, self._peers)
            yield area.memory

    def _made_room(
        self, packing: Packing, tokens: int, sends: bool, dtype: torch.dtype, device: torch.device
    ) -> tuple[PackedKeys, ...]:
        self.reserve(tokens, packing.width, dtype, device)
        sent = tokens if sends else 0
        shape = packing.batch * packing.heads, sent, packing.head_dim + packing.head_dim_v
        buffers = [
            self._memory_of(slot, sent, packing.width, dtype).view(shape) for slot in range(SLOTS)
        ]
        room = tuple(PackedKeys(x, packing.views(x) if sends else None) for x in buffers)
        if len(self._rooms) >= KEPT:
            self._rooms.clear()
        self._rooms[packing, tokens, sends, dtype, device] = room
        return room

    def _memory_of(self, slot: int, tokens: int, width: int, dtype: torch.dtype) -> Tensor:
        assert self._outgoing is not None  # `reserve` came before
        start = slot * (self._outgoing.size // self._regions)
        size = tokens * width * dtype.itemsize
        return self._outgoing.memory[start : start + size].view(dtype).view(tokens, width)

    def _claimed(self) -> int:
        """The next slot, when the stream comes to where the peers have read what is in it."""
        stream = self._entered()
        self._slot = slot = (self._slot + 1) % SLOTS
        for part in self._claims[slot]:
            self.driver.batch(stream.cuda_stream, part)
        return slot

    def _entered(self) -> torch.cuda.Stream:
        """The current stream, which waits for the one of the pass before if that is another."""
        current = torch._C._cuda_getCurrentStream(self._device_index)
        if current != self._stream_is or self._stream is None:
            self._stream, self._stream_is = torch.cuda.current_stream(self.device), current
        stream = self._stream
        self._capturing = torch.cuda.is_current_stream_capturing()
        if self._capturing:  # which begins when all else is done
            self._captured = True
        elif self._last is not stream:
            if self._last is not None:
                self.behind(stream, self._last)
            self._last = stream
        return stream

    def _claim(self, slot: int) -> Batch:
        others = (rank for rank in range(self._world) if rank != self._part.rank)
        return Batch(self.driver).take(
            *(self._own_table + self._words.free(slot, rank) for rank in others)
        )

    def _place_in_inbox(self, reader: int, owner: int) -> int:
        """Where a reader's part of an owner's inbox begins, in bytes: the owner itself has none."""
        assert self._inbox is not None
        return (reader - (reader > owner)) * (self._inbox.size // (self._world - 1))

    def _fill(self, memory: Tensor, dtype: torch.dtype) -> None:
        """Numbers as keys have them for what no pass packs: the keys of owners that are played."""
        if self._regions > SLOTS and self._filled is not dtype:
            self._filled = dtype
            memory.view(dtype).normal_()

    def _grown(self, old: Area | None, size: int) -> Area:
        if torch.cuda.is_current_stream_capturing():
            raise InvalidArgument(
                f"this ring needs {size} bytes of memory that its peers can reach, and cannot make "
                "it while a graph is captured; make the call once before, or call "
                "RingContext.reserve."
            )
        torch.cuda.synchronize(self.device)
        new = Area(self._group, self.device, size)
        if old is not None and self._captured:  # a graph may still use it
            self._outgrown.append(old)
        self._meet()
        return new

    def _meet(self) -> None:
        """Returns when all ranks are here, and what they have written is there."""
        torch.cuda.synchronize(self.device)
        word = torch.zeros(1, device=message_device(self._group))
        dist.all_reduce(word, group=self._group)
        word.item()


def _most(plan: Plan) -> int:
    return KEPT_OF_BATCHES if plan.of_batch else KEPT
