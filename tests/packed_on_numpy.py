"""The CuTe kernels' own lines about packed documents in numpy: a warp's 32 lanes, and TMA.

TMA is modelled by the shape and the strides that `operands.ragged` gives a matrix: outside of the
shape it brings zeros, inside what lies at the address, which wraps at 2^64.
"""

from types import SimpleNamespace

import numpy as np

from tests.played_kernels import fresh, plain

WIDTH = 16
BYTES = 2
"""Of a number in global memory."""
LOOPS = SimpleNamespace(
    range=lambda *x, unroll: range(*x), range_constexpr=range, const_expr=bool, max=max, min=min
)
operands, places, programs = fresh("operands"), fresh("packed.places"), fresh("packed.programs")
LEVELS = places.LEVELS


def shuffle_sync_up(x, distance):
    """Lanes below the distance keep their own, as the GPU has it."""
    x = np.broadcast_to(x, 32)
    return np.concatenate([x[:distance], x[:-distance]])


def write(into, here, numbers):
    """The lanes that are `here`, one at most, write theirs."""
    (lanes,) = np.nonzero(np.broadcast_to(here, 32))
    assert len(lanes) <= 1
    for lane in lanes:
        into[: len(numbers)] = [int(np.broadcast_to(x, 32)[lane]) for x in numbers]


ARCH = SimpleNamespace(
    WARP_SIZE=32, lane_idx=lambda: np.arange(32), shuffle_sync_up=shuffle_sync_up,
    warp_redux_sync=lambda x, kind: int(
        {"add": np.sum, "max": np.max}[kind](np.broadcast_to(x, 32))
    ),
    make_warp_uniform=int, sync_warp=lambda: None,
)  # fmt: skip
for module, stand_ins in (
    (operands, {
        "Int64": int,
        "cute": SimpleNamespace(
            assume=lambda x, divby: x, make_tensor=lambda pointer, layout: (pointer, layout),
            make_layout=lambda shape, stride: (shape, stride),
        ),
    }),
    (places, {
        "arch": ARCH, "cutlass": LOOPS, "Int32": lambda x: np.asarray(x, np.int64),
        "all_reaching": plain(places.all_reaching), "longest": plain(places.longest),
        "write": write,
        "lanes": SimpleNamespace(least=np.minimum, most=np.maximum),
    }),
    (programs, {
        "arch": ARCH, "cutlass": LOOPS,
        "load_of": lambda atom, matrix, pipe: matrix,
        "cute": SimpleNamespace(
            rank=lambda matrix: matrix.rank, domain_offset=lambda by, matrix: matrix.moved(by)
        ),
    }),
):  # fmt: skip
    for name, stand_in in stand_ins.items():
        setattr(module, name, stand_in)


def place_of(number, starts, own, low, *, of_keys):
    """What the number-th program is told; starts: of rows and of keys, arrays."""
    told = [None] * 6
    tiling = places.Tiling(own, low, of_keys)
    plain(places.find)(told, number, starts, len(starts[0]) - 1, tiling)
    return programs.place_in([-2 if x is None else x for x in told])


class Matrix:
    """Tokens (tokens, heads, WIDTH) in memory, as TMA is told of them; NaN behind the last one."""

    def __init__(self, values):
        self.memory = np.concatenate([values, np.full((9, *values.shape[1:]), np.nan)])
        self.heads = values.shape[1]
        told = (0, self.heads * WIDTH, WIDTH)
        _, (self.shape, self.strides) = operands.ragged(None, (WIDTH, self.heads), told)
        self.all = Part(self, (0, 0, None, None, None), (0,) * 5)

    def token(self, place):
        if not all(0 <= at < n for at, n in zip(place, self.shape, strict=True)):
            return np.zeros(WIDTH)
        address = sum(x * y * BYTES for x, y in zip(place, self.strides, strict=True)) % 2**64
        token, head = divmod(address // BYTES // WIDTH, self.heads)
        assert address // BYTES % WIDTH == 0
        return self.memory[token, head]


class Part:
    """Some dims of a matrix at a place, the others from an offset on: None where still free."""

    def __init__(self, matrix, at, offset):
        self.matrix, self.at, self.offset = matrix, at, offset

    @property
    def free(self):
        return [0, 1, *(i for i in (2, 3, 4) if self.at[i] is None)]

    @property
    def rank(self):
        return len(self.free)

    def __getitem__(self, index):
        at = list(self.at)
        assert len(index) == self.rank
        for dim, each in zip(self.free, index, strict=True):
            if each is not None:
                at[dim] = each
        return Part(self.matrix, at, self.offset)

    def moved(self, by):
        offset = list(self.offset)
        assert len(by) == self.rank
        for dim, each in zip(self.free, by, strict=True):
            offset[dim] += each
        return Part(self.matrix, self.at, offset)

    def tile(self, tile, block, head=None):
        """What comes of `block` tokens, `tile` of them later; head: if all are there."""
        _, _, one, stop, far = self.at
        assert (one is None) == (head is not None)
        first, column, *_ = self.offset
        assert column == 0
        rest = 0, head if one is None else one, stop, far
        tokens = range(first + tile * block, first + (tile + 1) * block)
        return np.stack([self.matrix.token((token, *rest)) for token in tokens])
