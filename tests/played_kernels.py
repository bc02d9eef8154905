"""Kernels in CuTe DSL as Python, their barriers modelled as the PTX ISA describes them.

Every warpgroup, and every warp that brings something, is a thread that is late at random.
"""

import importlib.util
import random
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

from tests.patience import limit

CLOCK = threading.Condition()
FIRST_TURN = 1
"""As `consumer.FIRST_TURN`."""
PATIENCE = 5.0
"""Seconds without anything happening that are a deadlock."""


def when(ready):
    with CLOCK:
        assert CLOCK.wait_for(ready, limit(PATIENCE)), "deadlock"


class Mbarrier:
    """Completes a phase when all that it counts have arrived, and all announced bytes."""

    def __init__(self, count):
        self.count = self.pending = count
        self.bytes = self.phase = 0

    def arrive(self, times=1, more=0):
        with CLOCK:
            self.pending -= times
            self.bytes += more
            assert self.pending >= 0, "somebody arrived who was not counted"
            if self.pending == 0 and self.bytes == 0:
                self.pending, self.phase = self.count, self.phase + 1
            CLOCK.notify_all()

    def wait(self, number):
        when(lambda: self.phase % 2 != number)


class Turn:
    """A named barrier of two warpgroups, of which one may be gone when the other comes."""

    def __init__(self):
        self.arrived = self.through = 0

    def arrive(self):
        with CLOCK:
            self.arrived += 1
            CLOCK.notify_all()
            return (self.arrived + 1) // 2

    def sync(self):
        turn = self.arrive()
        when(lambda: self.arrived >= 2 * turn)


class Slots:
    """What lies in them, and how many read it now."""

    def __init__(self, stages):
        self.tile, self.readers = [None] * stages, [0] * stages


class Model:
    """The program's shared memory and what works on it, under the names that the kernel calls."""

    def __init__(self, groups, stages, seed):
        self.random = random.Random(seed)
        self.turns = {FIRST_TURN + part: Turn() for part in range(groups)}
        self.log = {part: [] for part in range(groups)}
        self.config = SimpleNamespace(groups=groups)
        self.pipes = [self.pipe(stages, 4 * groups) for _ in range(2)]
        self.flying = threading.local()

    def pipe(self, stages, readers, writers=1):
        full, empty = ([Mbarrier(n) for _ in range(stages)] for n in (writers, readers))
        return SimpleNamespace(
            full=Row(full), empty=Row(empty), slots=Slots(stages), stages=stages, bytes=64
        )

    def pause(self):
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 1e-3)

    def copy(self, pipe, tile, slot):
        """TMA writes some time later."""

        def write():
            self.pause()
            with CLOCK:
                assert pipe.slots.readers[slot] == 0, "overwritten while it was read"
                pipe.slots.tile[slot] = tile
            pipe.full[slot].arrive(0, more=-pipe.bytes)

        threading.Thread(target=write).start()

    def read(self, pipe, slot, kind, part):
        """A product begins to read a slot, until it is waited for."""
        with CLOCK:
            pipe.slots.readers[slot] += 1
            self.log[part].append((kind, pipe.slots.tile[slot]))
        self.flying.groups.append((pipe, slot))

    def wait_group(self, left):
        self.pause()
        while len(self.flying.groups) > left:
            pipe, slot = self.flying.groups.pop(0)
            with CLOCK:
                pipe.slots.readers[slot] -= 1


class Row(list):
    """Barriers in a row: `row + i` is the i-th, as pointers are added."""

    def __add__(self, i):
        return self[i]


class PlayedForward:
    """Fresh parts of a forward over the model: `consumer`, and `producer`, which is `pipes`."""

    def __init__(self, monkeypatch, model, consumer, producer):
        self.model, self.parts = model, {"k": model.pipes[0], "v": model.pipes[1]}
        self.arch = SimpleNamespace(
            mbarrier_wait=lambda barrier, number: barrier.wait(number),
            barrier=lambda barrier_id, number_of_threads: model.turns[barrier_id].sync(),
            barrier_arrive=lambda barrier_id, number_of_threads: model.turns[barrier_id].arrive(),
        )
        self.cutlass = SimpleNamespace(range=lambda *x, unroll: range(*x), max=max)
        replaced = {
            "arch": self.arch, "cutlass": self.cutlass, "release": self._release,
            "multiply": self._multiply, "_weigh": lambda *_, **__: (None, None),
            "_fade": lambda *_: model.pause(), "rounded": lambda *_: None,
            "warpgroup": SimpleNamespace(wait_group=model.wait_group),
            "receive": producer.receive, "steps": plain(consumer.steps),
        }  # fmt: skip
        for name, other in replaced.items():
            monkeypatch.setattr(consumer, name, other)
        for name in ("arch", "cutlass"):
            monkeypatch.setattr(producer, name, replaced[name])
        monkeypatch.setattr(producer, "order", self.order)
        self.consumer = consumer

    def _release(self, pipe, i, lane):
        pipe.empty[i % pipe.stages].arrive(4)  # of four warps

    def _multiply(self, mma, into, a, b, *, fresh):
        pipe, slot, part = b
        assert fresh == (pipe is self.parts["k"])
        self.model.read(pipe, slot, "k" if pipe is self.parts["k"] else "v", part)

    def order(self, load, tile, pipe, slot):
        """TMA is asked for a tile."""
        pipe.full[slot].arrive(more=pipe.bytes)
        self.model.copy(pipe, tile if load is None else (load, tile), slot)

    def begin(self, part):
        """What a warpgroup holds, and is given; the last one passes the first turn on."""
        self.model.flying.groups = []
        given = SimpleNamespace(
            lane=0, part=part, q=None, k=_Operand(self.parts["k"], part),
            v=_Operand(self.parts["v"], part), keys=self.parts["k"], values=self.parts["v"],
            scores_mma=None, values_mma=None, build=SimpleNamespace(config=self.model.config),
        )  # fmt: skip
        if part == self.model.config.groups - 1:
            self.consumer._pass_turn(given)
        return SimpleNamespace(s=None, p=None, o=None), given


class _Operand:
    def __init__(self, pipe, part):
        self.pipe, self.part = pipe, part

    def __getitem__(self, place):
        return self.pipe, place[3], self.part


def multiplied(tiles):
    """The operands that a warpgroup reads of a forward, in their order."""
    found = [("k", tile) for tile in tiles[:1]]
    for before, tile in pairwise(tiles):
        found += [("k", tile), ("v", before)]
    return found + [("v", tile) for tile in tiles[-1:]]


def fresh(name):
    """A module's own copy: the compiler replaces what it has compiled once."""
    spec = importlib.util.find_spec(f"ring_attn_backends.cute.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(function):
    """A function as it was before `cute.jit` took it."""
    return function.__wrapped__


def at_once(works):
    """All of them, a thread each."""
    faults = []

    def caught(work):
        try:
            work()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=caught, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
