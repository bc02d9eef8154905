"""The CuTe kernel's barriers, played by threads: who waits for whom, and what lies in which slot.

The kernel's own functions run here as Python, over barriers, copies and products that are modelled
as the PTX ISA describes them; a warpgroup is one thread, which arrives for its four warps.
"""

import importlib.util
import random
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.patience import limit

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute import pipes
from ring_attn_backends.cute.programs import nth_of_heads


def fresh(name):
    """A module's own copy: the compiler replaces what it has compiled once."""
    spec = importlib.util.find_spec(f"ring_attn_backends.cute.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


consumer, forward = fresh("consumer"), fresh("forward")
key_gradients, row_gradients = fresh("key_gradients"), fresh("row_gradients")
backward_dkdv, backward_dq = fresh("backward_dkdv"), fresh("backward_dq")
own_pipes = fresh("pipes")
CLOCK = threading.Condition()
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
        self.turns = {consumer.FIRST_TURN + part: Turn() for part in range(groups)}
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


def played(monkeypatch, groups, stages, edges, whole, seed):
    """The tiles that each warpgroup multiplied, in order."""
    model = Model(groups, stages, seed)
    keys, values = model.pipes
    count = edges + whole
    where = (0, edges, whole, edges)  # all tiles in their order

    def release(pipe, i, lane):
        pipe.empty[i % pipe.stages].arrive(4)  # of four warps

    def multiply(mma, into, a, b, *, fresh):
        pipe, slot, part = b
        assert fresh == (pipe is keys)
        model.read(pipe, slot, "k" if pipe is keys else "v", part)

    def order(load, tile, pipe, slot):
        pipe.full[slot].arrive(more=pipe.bytes)
        model.copy(pipe, tile, slot)

    class Operand:
        def __init__(self, pipe, part):
            self.pipe, self.part = pipe, part

        def __getitem__(self, place):
            return self.pipe, place[3], self.part

    arch = SimpleNamespace(
        mbarrier_wait=lambda barrier, number: barrier.wait(number),
        barrier=lambda barrier_id, number_of_threads: model.turns[barrier_id].sync(),
        barrier_arrive=lambda barrier_id, number_of_threads: model.turns[barrier_id].arrive(),
    )
    monkeypatch.setattr(pipes, "arch", arch)
    monkeypatch.setattr(pipes, "order", order)
    monkeypatch.setattr(consumer, "arch", arch)
    monkeypatch.setattr(consumer, "release", release)
    monkeypatch.setattr(consumer, "multiply", multiply)
    monkeypatch.setattr(consumer, "_weigh", lambda *_, **__: (None, None))
    monkeypatch.setattr(consumer, "_fade", lambda *_: model.pause())
    monkeypatch.setattr(consumer, "rounded", lambda *_: None)
    monkeypatch.setattr(consumer, "warpgroup", SimpleNamespace(wait_group=model.wait_group))
    monkeypatch.setattr(forward, "order", lambda *_: None)  # the queries
    monkeypatch.setattr(forward, "cutlass", SimpleNamespace(range=lambda *x, unroll: range(*x)))
    monkeypatch.setattr(
        consumer, "cutlass", SimpleNamespace(range=lambda *x, unroll: range(*x), max=max)
    )

    def consume(part):
        model.flying.groups = []
        given = SimpleNamespace(
            lane=0, part=part, q=None, k=Operand(keys, part), v=Operand(values, part), keys=keys,
            values=values, scores_mma=None, values_mma=None,
            build=SimpleNamespace(config=model.config),
        )  # fmt: skip
        held = SimpleNamespace(s=None, p=None, o=None)
        if part == groups - 1:
            consumer._pass_turn(given)
        if count:
            plain(consumer.walk)(held, given, where)

    def produce():
        plain(forward._produce)((None, None, None), None, keys, values, 0, where)

    at_once([*(partial(consume, part) for part in range(groups)), produce])
    return model.log


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


def plain(function):
    """A function as it was before `cute.jit` took it."""
    return function.__wrapped__


@settings(phases=[Phase.generate])  # a deadlock takes seconds, to shrink it minutes
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=st.integers(0, 5),
    whole=st.integers(0, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_warpgroup_multiplies_every_tile_once_and_nobody_waits_for_ever(
    groups, stages, edges, whole, seed
):
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = played(monkeypatch, groups, stages, edges, whole, seed)

    count = edges + whole
    expected = [("k", 0)] if count else []
    for i in range(1, count):
        expected += [("k", i), ("v", i - 1)]
    if count:
        expected.append(("v", count - 1))
    assert log == dict.fromkeys(range(groups), expected)


class Part:
    """A pipe's slots as a warpgroup multiplies them; kind: as its log names it."""

    def __init__(self, kind, pipe, part):
        self.kind, self.pipe, self.part = kind, pipe, part

    def __getitem__(self, place):
        return self.kind, self.pipe, place[3], self.part


def backward_played(monkeypatch, module, producer, stages, groups, tiles, parts, ahead, seed):
    """What each warpgroup multiplied, in order.

    tiles: edges, whole ones, and of how many heads, or None where there is one. parts: of pipes and
    a warpgroup's number what `Given` has of them.
    """
    edges, whole, each = tiles
    where, heads = (0, edges, whole, edges), [each] if each else []
    model = Model(groups, stages, seed)
    tiles_, others = model.pipes
    vectors = model.pipe(stages, 4 * groups, writers=32)

    def release(pipe, i, lane, there=True):
        if there:
            pipe.empty[i % pipe.stages].arrive(4)

    def multiply(mma, into, a, b, *, fresh):
        kind, pipe, slot, part = b
        model.read(pipe, slot, kind, part)

    def weigh(held, given, tile, vector, *, edge):
        model.pause()
        model.log[given.lane].append(("told", vectors.slots.tile[vector]))
        return [], []

    def order(load, tile, pipe, slot):
        pipe.full[slot].arrive(more=pipe.bytes)
        model.copy(pipe, (load, tile), slot)

    loops = SimpleNamespace(range=lambda *x, unroll: range(*x), range_constexpr=range, max=max)
    for name, stand_in in {
        "cutlass": loops, "release": release, "multiply": multiply, "_weigh": weigh,
        "warpgroup": SimpleNamespace(wait_group=model.wait_group), "read": lambda _: [],
        "rounded": lambda *_: model.pause(), "_factors": lambda *_, **__: [],
        "_begin": lambda *_: model.pause(),
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, stand_in, raising=False)
    arch = SimpleNamespace(
        mbarrier_wait=lambda barrier, number: barrier.wait(number),
        mbarrier_arrive=lambda barrier: barrier.arrive(32),  # of a warp
    )
    for every in (pipes, own_pipes):
        monkeypatch.setattr(every, "arch", arch)
    monkeypatch.setattr(own_pipes, "cutlass", loops)
    monkeypatch.setattr(own_pipes, "cute", SimpleNamespace(size=len))
    monkeypatch.setattr(pipes, "order", order)
    monkeypatch.setattr(producer, "cutlass", loops)
    monkeypatch.setattr(producer, "load_at", lambda load, head: head, raising=False)

    def consume(part):
        model.flying.groups = []
        build = SimpleNamespace(config=SimpleNamespace(ahead=ahead), capped=False)
        given = SimpleNamespace(
            lane=part, build=build, scores_mma=None, sums_mma=None, k=None, v=None, q=None,
            dout=None, vectors=vectors,
        )  # fmt: skip
        vars(given).update(parts(tiles_, others, part))
        held = SimpleNamespace(**dict.fromkeys(("s", "dp", "p", "ds", "dk", "dv", "dq", "deltas")))
        plain(module.walk)(held, given, where, *heads)

    def produce():
        middle = [0, each] if each else []
        plain(producer._produce)((None, None), tiles_, others, *middle, where)

    def tell():
        for i in range((edges + whole) * each):
            plain(own_pipes.tell)(vectors, i, [[i]], 0)

    class Told:
        """A line of numbers in a slot, all of them those of tile i."""

        tile = vectors.slots.tile

        def __setitem__(self, place, value):
            self.tile[place[2]] = value

    vectors.slots = Told()
    works = [*(partial(consume, part) for part in range(groups)), produce]
    at_once([*works, tell] if each else works)
    return model.log


def of_keys(queries, douts, part):
    return {
        "queries": queries, "douts": douts,
        "q": Part("q", queries, part), "q_columns": Part("q columns", queries, part),
        "dout": Part("dout", douts, part), "dout_columns": Part("dout columns", douts, part),
    }  # fmt: skip


def of_rows(keys, values, part):
    return {
        "keys": keys, "values": values, "v": Part("v", values, part),
        "k": Part("k", keys, part), "k_columns": Part("k columns", keys, part),
    }  # fmt: skip


counts = st.integers(0, 4)


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_row_tile_of_every_head_is_multiplied_four_times_and_nobody_waits_for_ever(
    groups, stages, edges, whole, each, seed
):
    tiles, ahead = (edges, whole, each), stages > 1 and seed % 2 == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = backward_played(
            monkeypatch, key_gradients, backward_dkdv, stages, groups, tiles, of_keys, ahead, seed
        )  # fmt: skip

    expected = []
    for i in range((edges + whole) * each):
        tile = nth_of_heads(i, each, (0, edges, whole, edges))
        expected += [("q", tile), ("dout", tile), ("told", i)]
        expected += [("dout columns", tile), ("q columns", tile)]
    assert log == dict.fromkeys(range(groups), expected)


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_key_tile_is_multiplied_three_times_and_nobody_waits_for_ever(
    groups, stages, edges, whole, seed
):
    tiles, ahead = (edges, whole, None), stages > 1 and seed % 2 == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = backward_played(
            monkeypatch, row_gradients, backward_dq, stages, groups, tiles, of_rows, ahead, seed
        )  # fmt: skip

    expected = []
    for i in range(edges + whole):
        expected += [("k", (None, i)), ("v", (None, i)), ("k columns", (None, i))]
    assert log == dict.fromkeys(range(groups), expected)
