"""The CuTe backward that adds to dq on numpy, over `backward_on_numpy`: a thread a warpgroup.

What is shown and staged becomes NaN once all have read it; TMA adds a staged tile when the last
warpgroup has handed its part on.
"""

import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
from ring_attn_backends.cute.programs import column_of

from tests.backward_on_numpy import (
    LOOPS,
    WIDTH,
    Told,
    key_gradients,
    keys_at_work,
    on_numpy,
)
from tests.played_kernels import CLOCK, at_once, fresh, plain, when
from tests.warpgroup import LANE, NUMPY, WARP, Registers, Slots, TensorCores

shares = fresh("shares")


class CoresOfThreads:
    """Each warpgroup's own."""

    def __init__(self):
        self.each = threading.local()

    @property
    def own(self):
        if not hasattr(self.each, "cores"):
            self.each.cores = TensorCores()
        return self.each.cores

    def multiply(self, mma, into, a, b, *, fresh):
        self.own.multiply(mma, into, a, b, fresh=fresh)

    def wait_group(self, left):
        self.own.wait_group(left)


class Laid:
    """A pipe that warpgroups write: (rows, columns) each slot, which are NaN until they do."""

    def __init__(self, shape, stages, groups, readers, take=None):
        self.tiles, self.stages = np.full((stages, *shape), np.nan), stages
        self.groups, self.readers, self.take = groups, readers, take
        self.handed, self.read, self.slots = {}, {}, self

    def await_empty(self, i):
        when(lambda: i < self.stages or self.read.get(i - self.stages, 0) == self.readers)
        return i % self.stages

    def hand_on(self, i):
        with CLOCK:
            self.handed[i] = self.handed.get(i, 0) + 1
            if self.take is not None and self.handed[i] == self.groups:
                self.take(i, self.tiles[i % self.stages])
                self.release(i)
            CLOCK.notify_all()

    def receive(self, i):
        when(lambda: self.handed.get(i, 0) == self.groups)
        return i % self.stages

    def release(self, i):
        with CLOCK:
            self.read[i] = self.read.get(i, 0) + 1
            if self.read[i] == self.readers:
                self.tiles[i % self.stages] = np.nan
            CLOCK.notify_all()


def lay(tensor, slots, slot, row, column, lane):
    """As `registers.lay`, where a slot is a matrix."""
    for i, numbers in enumerate(tensor):
        place = row + lane // 4 + 8 * (i // 2 % 2), column + column_of(lane, i)
        slots.tiles[slot][place] = numbers


class Fragment:
    def __init__(self, of):
        self.of = of

    def __getitem__(self, place):
        return self.of(place[3])


def on_numpy_with_shares(monkeypatch, cores):
    """`on_numpy` of dk and dv's steps and of those of shares."""
    on_numpy(monkeypatch, key_gradients, cores)
    mine = threading.local()
    arch = SimpleNamespace(
        lane_idx=lambda: LANE, warp_idx=lambda: 4 * mine.part + WARP, make_warp_uniform=lambda x: x
    )
    for name, stand_in in {
        "key_gradients": key_gradients, "cutlass": LOOPS, "multiply": cores.multiply, "arch": arch,
        "warpgroup": cores, "read": list, "write": Registers.write, "lay": lay,
        "lanes": SimpleNamespace(lane_now=lambda: LANE, where=NUMPY.where),
        "walk": plain(shares.walk), "steps": plain(shares.steps), "Float32": float,
        "transposed": lambda x: x,
        "await_empty": lambda pipe, i: pipe.await_empty(i),
        "hand_on": lambda pipe, i, lane: pipe.hand_on(i),
        "receive": lambda pipe, i: pipe.receive(i),
        "release": lambda pipe, i, lane: pipe.release(i),
        "cute": SimpleNamespace(make_rmem_tensor=lambda n, _: Registers(n)),
    }.items():  # fmt: skip
        monkeypatch.setattr(shares, name, stand_in)
    return mine


def product_of(split):
    """The product for dq, of so many parts of rows and of columns: what a warpgroup cuts out."""
    by_rows, by_columns = split
    count = WIDTH // by_columns

    def get_slice(thread):
        part = int(np.unique(thread).item()) // 128
        rows = slice(64 * (part % by_rows), 64 * (part % by_rows) + 64)
        columns = slice(count * (part // by_rows), count * (part // by_rows + 1))
        return SimpleNamespace(
            partition_A=lambda shown: lambda slot: lambda: shown.tiles[slot][:, rows].T,
            partition_B=lambda keys: lambda _: lambda: keys[:, columns].T,
            partition_shape_C=lambda _: count,
        )

    return SimpleNamespace(get_slice=get_slice, make_fragment_A=Fragment, make_fragment_B=Fragment)


def run_warpgroups(patch, config, tiles, own, vectors, add, gather):
    """A program's warpgroups, a thread each.

    tiles: of q and of dout those that come, in order. own: k and v of the program. vectors: as
    `told` has them. add: what TMA does with the i-th tile of dq. gather: the kernel's own lines, of
    the pipes and the product for dq.
    """
    cores = CoresOfThreads()
    mine = on_numpy_with_shares(patch, cores)
    groups = config.groups

    def begin(pipes, products, first, factors, build):
        slots, lines, part = [Slots(x, 2) for x in tiles], Told(), 64 * mine.part
        lines.lines = vectors.lines
        k, v = (x[part : part + 64] for x in own)
        return keys_at_work(k, v, first + part, slots, lines, factors, build)

    def hand_over(held, given, results, stop, multiples, add):
        assert not cores.own.asked, "somebody read sums that were not done"
        for sums, result, factor in zip((held.dk, held.dv), results, multiples, strict=True):
            for i, numbers in enumerate(sums):
                key = given.keys[i // 2 % 2]
                column = 8 * (i // 4) + i % 2 + 2 * (LANE % 4)
                there = key < stop
                result[key[there], column[there]] = factor * numbers[there]

    patch.setattr(key_gradients, "at_work", begin)
    patch.setattr(key_gradients, "await_keys", lambda _: None)
    patch.setattr(key_gradients, "hand_over", hand_over)
    shown = Laid((config.own, config.block), config.shown, groups, groups)
    staged = Laid((config.block, WIDTH), 1, groups, 1, add)
    pipes = (SimpleNamespace(slots=own[0]), None, None, None, None, shown, staged)

    def warpgroup(part):
        mine.part = part
        with np.errstate(over="ignore", invalid="ignore"):
            gather(pipes, product_of(config.split))

    at_once([partial(warpgroup, part) for part in range(groups)])
