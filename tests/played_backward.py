"""The CuTe backward's warpgroups and producers as threads, over the model of `played_kernels`."""

from types import SimpleNamespace

from ring_attn_backends.cute import pipes

from tests.played_kernels import Row, fresh, plain

key_gradients, row_gradients = fresh("key_gradients"), fresh("row_gradients")
one_gradient = fresh("one_gradient")
own_pipes, row_tiles = fresh("pipes"), fresh("row_tiles")
BLOCK = 32
"""Rows of a tile: one for each lane, of which the first alone is played."""


class Part:
    """A pipe's slots as a warpgroup multiplies them; kind: as its log names it."""

    def __init__(self, kind, pipe, part):
        self.kind, self.pipe, self.part = kind, pipe, part

    def __getitem__(self, place):
        return self.kind, self.pipe, place[3], self.part


class Lines:
    """Numbers in a slot: a row's is what the first lane has written of it."""

    def __init__(self, tile):
        self.tile = tile

    def __setitem__(self, place, value):
        self.tile[place[2]] = value


class Line:
    """lse, or delta: each number says where it is of."""

    def __getitem__(self, place):
        return Number(place)


class Number(tuple):
    """What stays the same when a sign changes."""

    def __neg__(self):
        return self


def first_of(barriers):
    """A pointer to barriers is one to their first."""
    return barriers[0] if isinstance(barriers, Row) else barriers


class Thread(list):
    """A thread's registers."""

    def fill(self, value):
        self[:] = [value] * len(self)


class PlayedBackward:
    """Of a model's two pipes, and one of vectors; module: `key_gradients`, `row_gradients`, or
    `one_gradient`, which is of dk or dv.
    """

    def __init__(self, monkeypatch, model, module, stages, *, ahead, of="dkdv"):
        self.model, self.module, self.ahead, self.of = model, module, ahead, of
        groups = model.config.groups
        self.tiles, self.others = model.pipes
        self.vectors = model.pipe(stages, 4 * groups, writers=32)
        self.vectors.slots = Lines(self.vectors.slots.tile)
        self.loops = SimpleNamespace(
            range=lambda *x, unroll: range(*x), range_constexpr=range, max=max, const_expr=bool
        )
        self.arch = SimpleNamespace(
            mbarrier_wait=lambda barrier, number: first_of(barrier).wait(number),
            mbarrier_arrive=lambda barrier: barrier.arrive(32),  # of a warp
            lane_idx=lambda: 0, WARP_SIZE=32,
        )  # fmt: skip
        replaced = {
            "cutlass": self.loops, "release": self._release, "release_loaded": self._release,
            "multiply": self._multiply, "_weigh": self._weigh, "steps": plain(module.steps),
            "warpgroup": SimpleNamespace(wait_group=model.wait_group), "read": lambda _: [],
            "rounded": lambda *_: model.pause(), "_factors": lambda *_, **__: [],
            "_begin": lambda *_: model.pause(), "arch": self.arch,
        }  # fmt: skip
        for name, stand_in in replaced.items():
            monkeypatch.setattr(module, name, stand_in, raising=False)
        for each in (pipes, own_pipes):
            monkeypatch.setattr(each, "arch", self.arch)
            monkeypatch.setattr(each, "order", lambda *told: self.order(*told))
        for name, stand_in in {
            "lanes": SimpleNamespace(reciprocal=lambda x: x), "arch": self.arch,
            "cutlass": self.loops, "slopes": SimpleNamespace(start=lambda x, _: x),
            "cute": SimpleNamespace(make_rmem_tensor=lambda n, _: Thread([None] * n)),
            "bring": own_pipes.bring, "tell": plain(own_pipes.tell),
            "load_at": lambda load, head: (load, head),
        }.items():  # fmt: skip
            monkeypatch.setattr(row_tiles, name, stand_in)
        monkeypatch.setattr(own_pipes, "cutlass", self.loops)
        monkeypatch.setattr(own_pipes, "cute", SimpleNamespace(size=len))

    def _release(self, pipe, i, lane, there=True):
        if there:
            mine = self.model.flying.groups
            reads = any(x is pipe and slot == i % pipe.stages for x, slot in mine)
            assert not reads, "let go of what a product still reads"
            pipe.empty[i % pipe.stages].arrive(4)

    def _multiply(self, mma, into, a, b, *, fresh):
        kind, pipe, slot, part = b
        self.model.read(pipe, slot, kind, part)

    def _weigh(self, held, given, tile, visit, vector, *, edge):
        self.model.pause()
        self.model.log[given.lane].append(("told", self.vectors.slots.tile[vector]))
        return [], []

    def order(self, load, tile, pipe, slot):
        """TMA is asked for a tile."""
        pipe.full[slot].arrive(more=pipe.bytes)
        self.model.copy(pipe, (load, tile), slot)

    @property
    def build(self):
        """As far as kernels look at it."""
        return SimpleNamespace(
            config=SimpleNamespace(ahead=self.ahead, block=BLOCK), capped=True,
            has_dk=self.of != "dv", has_dv=self.of != "dk",
        )  # fmt: skip

    def begin(self, part):
        """What a warpgroup holds, and is given."""
        self.model.flying.groups = []
        tiles, others = self.tiles, self.others
        if self.module is not row_gradients:
            parts = {
                "queries": tiles, "douts": others, "k": None, "v": None,
                "q": Part("q", tiles, part), "q_columns": Part("q columns", tiles, part),
                "dout": Part("dout", others, part),
                "dout_columns": Part("dout columns", others, part),
            }  # fmt: skip
        else:
            parts = {
                "keys": tiles, "values": others, "q": None, "dout": None,
                "k": Part("k", tiles, part), "k_columns": Part("k columns", tiles, part),
                "v": Part("v", others, part),
            }  # fmt: skip
        given = SimpleNamespace(
            lane=part, build=self.build, scores_mma=None, sums_mma=None, values_mma=None,
            vectors=self.vectors, **parts,
        )  # fmt: skip
        names = "s", "dp", "p", "ds", "dk", "dv", "dq", "deltas"
        return SimpleNamespace(**dict.fromkeys(names)), given

    def tell(self, first, rows, heads, where, before):
        """The second warp's own lines, of a visit."""
        plain(row_tiles.tell_rows)(
            (Line(), Line()), self.vectors, (first, rows), heads, where, before, 1.0, self.build
        )


def of_keys(matrices, first, tiles, of="dkdv"):
    """What a warpgroup multiplies of row tiles, told by head and tile, from a row on."""
    q, dout = matrices
    found = []
    for head, tile in tiles:
        found += [("q", ((q, head), tile))]
        found += [("dout", ((dout, head), tile))] * (of != "dv")
        found += [("told", (first + BLOCK * tile, head))]
        found += [("dout columns", ((dout, head), tile))] * (of != "dk")
        found += [("q columns", ((q, head), tile))] * (of != "dv")
    return found
