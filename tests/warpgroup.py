"""A warpgroup of the CuTe kernels in numpy: its registers, and what tensor cores do with them.

A register is 128 numbers, one of each thread. Products run when they are waited for: until then a
register that is read holds what it held before, and an operand that is overwritten spoils them.
"""

from types import SimpleNamespace

import numpy as np
from ring_attn_backends.cute.programs import column_of, row_of

THREADS = np.arange(128)
LANE, WARP = THREADS % 32, THREADS // 32


def quad(x, combine):
    x = np.asarray(x).reshape(32, 4)
    x = combine(x, x[:, [1, 0, 3, 2]])  # by the distances of lanes, as the GPU does
    return combine(x, x[:, [2, 3, 0, 1]]).reshape(128)


NUMPY = SimpleNamespace(
    MINUS_INF=-np.inf, most=np.fmax, least=np.minimum, plus=np.add, where=np.where, exp2=np.exp2,
    log2=np.log2, reciprocal=np.reciprocal, is_infinite=np.isinf, quad=quad,
)  # fmt: skip
"""`lanes` of a whole warpgroup, in float64."""


def spread(tile):
    """A tile (64, columns) in registers: a number of each thread for each register."""
    return [
        tile[row_of(LANE, WARP, i // 2 % 2), column_of(LANE, i)] for i in range(tile.shape[1] // 2)
    ]


def gathered(registers):
    """The tile that they hold."""
    tile = np.full((64, 2 * len(registers)), np.nan)
    for i, x in enumerate(registers):
        tile[row_of(LANE, WARP, i // 2 % 2), column_of(LANE, i)] = x
    return tile


class Registers(list):
    """Of a tile of so many columns; they hold NaN at first."""

    def __init__(self, columns):
        super().__init__(np.full(128, np.nan) for _ in range(columns // 2))

    def write(self, values):
        self[:] = list(values)


class TensorCores:
    """Products in the order in which they were asked for."""

    def __init__(self):
        self.asked = []

    def multiply(self, mma, into, a, b, *, fresh):
        """Asks for into = a b^T, or into += a b^T; a and b are called when it runs."""
        self.asked.append((into, a, b, fresh))

    def wait_group(self, left):
        while len(self.asked) > left:
            into, a, b, fresh = self.asked.pop(0)
            left_side = gathered(a) if isinstance(a, Registers) else a() if callable(a) else a
            share = left_side @ b().T
            into.write(spread(share if fresh else gathered(into) + share))


class Slots:
    """Tiles that came: told by their number, until they are released."""

    def __init__(self, tiles, stages):
        self.tiles, self.stages = tiles, stages
        self.released = set()

    def receive(self, i):
        assert i not in self.released
        return i

    def release(self, i):
        assert i not in self.released, "released twice"
        self.released.add(i)

    def __getitem__(self, place):
        """What a product reads: by the time it runs."""

        def read():
            i = place[3]
            return self.tiles[i] if i not in self.released else np.full_like(self.tiles[i], np.nan)

        return read

    @property
    def columns(self):
        return Columns(self)


class Columns:
    """The same tiles, transposed."""

    def __init__(self, slots):
        self.slots = slots

    def __getitem__(self, place):
        return lambda: self.slots[place]().T
