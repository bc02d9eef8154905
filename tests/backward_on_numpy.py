"""The CuTe backward's own lines on numpy: its warpgroups' registers, and what producers bring them.

Products run late, tiles become NaN when they are released (`warpgroup`), and lines of lse and delta
are written lane by lane.
"""

from types import SimpleNamespace

import numpy as np
from ring_attn_backends.cute.programs import row_of

from tests.played_kernels import fresh, plain
from tests.warpgroup import LANE, NUMPY, WARP, Registers

WIDTH, WIDTH_V = 16, 24
key_gradients, row_gradients = fresh("key_gradients"), fresh("row_gradients")
row_tiles, pipes = fresh("row_tiles"), fresh("pipes")
one_gradient = fresh("one_gradient")
one_gradient._begin, one_gradient._weigh = key_gradients._begin, key_gradients._weigh
LOOPS = SimpleNamespace(
    range=lambda *x, unroll: range(*x), range_constexpr=range, const_expr=bool, max=max
)


def on_numpy(monkeypatch, module, cores):
    """Registers, products and slots of a module's steps are those of `tests.warpgroup`."""
    for name, stand_in in {
        "lanes": NUMPY, "cutlass": LOOPS, "multiply": cores.multiply, "warpgroup": cores,
        "read": list, "rounded": Registers.write, "steps": plain(module.steps),
        "receive": lambda slots, i: slots.receive(i),
        "release": lambda slots, i, lane, there=True: slots.release(i) if there else None,
        "release_loaded": lambda slots, i, lane: slots.release(i),
        "flat": lambda x: x,
        "cute": SimpleNamespace(size=len, make_rmem_tensor=lambda n, _: Registers(2 * n)),
        "pair_of": lambda line, place: SimpleNamespace(
            load=lambda: (line[place], line[place + 1])
        ),
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, stand_in, raising=False)


class Told:
    """lse and delta as consumers read them: a line of each row tile's numbers for each vector."""

    def __init__(self):
        self.lines, self.released = {}, set()

    def receive(self, i):
        return i

    def release(self, i):
        self.released.add(i)

    @property
    def slots(self):
        return self

    def __getitem__(self, place):
        _, vector, i = place
        assert i not in self.released
        return self.lines[i][vector]


def told(monkeypatch, block, work):
    """What the second warp writes; work: its own lines, to these vectors, of one lane."""
    vectors = Told()

    def tell(_, i, numbers, lane):
        lines = vectors.lines.setdefault(i, np.full((2, row_tiles.lines(block)), np.nan))
        for vector, values in enumerate(numbers):
            lines[vector, lane::32] = values

    class Thread(list):
        def fill(self, value):
            self[:] = [value] * len(self)

    for name, stand_in in {
        "lanes": NUMPY, "cutlass": LOOPS, "tell": tell,
        "cute": SimpleNamespace(make_rmem_tensor=lambda n, _: Thread([np.nan] * n)),
    }.items():  # fmt: skip
        monkeypatch.setattr(row_tiles, name, stand_in)
    for lane in range(32):
        arch = SimpleNamespace(WARP_SIZE=32, lane_idx=lambda lane=lane: lane)
        monkeypatch.setattr(row_tiles, "arch", arch)
        work(vectors)
    return vectors


def brought(monkeypatch, module, work):
    """The tiles that the producer brings, in order: of each pipe a list; work: its own lines."""
    into = ([], [])

    def bring(load, tile, pipe, i):
        assert len(pipe) == i
        pipe.append((load, tile))

    monkeypatch.setattr(module, "cutlass", LOOPS)
    monkeypatch.setattr(module, "load_at", lambda load, head: (load, head))
    monkeypatch.setattr(module, "bring", bring)
    work(into)
    return into


def cut(x, first, count):
    """Rows of a matrix, with zeros behind its end, as TMA brings them."""
    part = x[first : first + count]
    return np.concatenate([part, np.zeros((count - len(part), x.shape[1]))])


def build_of(block, *, ahead, capped, of="dkdv"):
    """As far as a kernel's steps look at it; of: "dkdv", "dk" or "dv"."""
    return SimpleNamespace(
        config=SimpleNamespace(block=block, ahead=ahead), capped=capped,
        has_dk=of != "dv", has_dv=of != "dk",
    )  # fmt: skip


def keys_at_work(k, v, first_key, slots, vectors, factors, build):
    """What a warpgroup of 64 keys from first_key on holds, and is given; slots: of q and dout."""
    s, dp, p, ds = (Registers(build.config.block) for _ in range(4))
    dk, dv = (Registers(x.shape[1]) for x in (k, v))
    for x in (dk, dv):
        x.write([np.zeros(128)] * len(x))
    held = key_gradients.Held(s, dp, p, ds, dk, dv)
    if not build.has_dk:
        held, v = held._replace(dp=None, ds=None, dk=None), None
    if not build.has_dv:
        held = held._replace(p=None, dv=None)
    queries, douts = slots
    given = key_gradients.Given(
        LANE, [first_key + row_of(LANE, WARP, half) for half in (0, 1)], k, v,
        queries, douts, queries.columns, douts.columns, queries, douts, vectors, None, None, None,
        factors, build,
    )  # fmt: skip
    return held, given


def rows_at_work(q, dout, first_row, lines, slots, factors, build):
    """The same of 64 rows; lines: lse and delta of all rows. slots: of k and v."""
    held = row_gradients.Held(
        *(Registers(build.config.block) for _ in range(3)),
        Registers(q.shape[1]), Registers(4), Registers(4),
    )  # fmt: skip
    held.dq.write([np.zeros(128)] * len(held.dq))
    lse, delta = lines
    places = [first_row + row_of(LANE, WARP, half) for half in (0, 1)]
    for half, place in enumerate(places):
        line = np.minimum(place, len(lse) - 1)
        held.starts[half] = row_gradients.slopes.start(lse[line], NUMPY)
        held.deltas[half] = delta[line]
    k, v = slots
    given = row_gradients.Given(
        LANE, places, q, dout, k, v, k.columns, k, v, None, None, factors, build
    )
    return held, given
