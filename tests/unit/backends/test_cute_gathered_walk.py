"""What the CuTe kernel for gathered keys reads and sums: its own lines, in integers and numpy.

TMA is modelled by the shape and the strides that `operands.ragged` gives a matrix, and the places
that `sending.loads_of` asks for: outside of the shape it brings zeros, inside what lies at the
address, which wraps at 2^64.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.cute import online
from ring_attn_backends.cute.programs import nth, row_of
from ring_attn_backends.shared.worklist import worklist

from ring_attn_bench.plan.gathered import gathered
from tests.played_kernels import fresh
from tests.unit.plan.test_gathered import bands, pairs, rings
from tests.warpgroup import LANE, NUMPY, WARP, spread
from tests.warpgroup import gathered as tile_held

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute.gathered import visits

operands, sending = fresh("operands"), fresh("gathered.sending")
CPU, WIDTH, HEADS, HEAD = torch.device("cpu"), 16, 3, 1
BYTES = 2
"""Of a number in global memory."""


class Area:
    """Keys, or values, of all heads in memory, and how TMA is told of them."""

    def __init__(self, tokens, draw):
        # beyond the area, and of other heads, what must not be read
        self.memory = np.full((tokens + 9, HEADS, WIDTH), np.nan)
        self.memory[:tokens, HEAD] = draw.standard_normal((tokens, WIDTH))
        recorded = SimpleNamespace(
            assume=lambda x, divby: x, make_tensor=lambda pointer, layout: layout,
            make_layout=lambda shape, stride: (shape, stride),
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(operands, "cute", recorded)
            monkeypatch.setattr(operands, "Int64", int)
            told = (0, HEADS * WIDTH, WIDTH)
            self.shape, self.strides = operands.ragged(None, (WIDTH, HEADS), told)

    def __getitem__(self, place):
        _, _, head, stop, far = place
        return self, (0, 0, head, stop, far)

    def tile(self, place, tile, block):
        """What comes of `block` tokens, `tile` of them later."""
        first, *rest = place
        rows = [self.token(first + tile * block + i, *rest) for i in range(block)]
        return np.stack(rows)

    def token(self, *place):
        if not all(0 <= at < n for at, n in zip(place, self.shape, strict=True)):
            return np.zeros(WIDTH)
        address = sum(x * y * BYTES for x, y in zip(place, self.strides, strict=True)) % 2**64
        token, head = divmod(address // BYTES // WIDTH, HEADS)
        assert address // BYTES % WIDTH == 0
        return self.memory[token, head]


moved = SimpleNamespace(
    domain_offset=lambda by, matrix: (matrix[0], (matrix[1][0] + by[0], by[1], *matrix[1][2:]))
)
"""`cute` of a matrix and a place in it."""


def loads_of(area, side):
    """The producer's own lines: where the tiles of a side are, in an area's keys and values."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sending, "cute", moved)
        monkeypatch.setattr(sending, "load_of", lambda atom, matrix, pipe: matrix)
        return sending.loads_of([(None, x) for x in area], HEAD, side, (None, None))


def by_visits(q, areas, entries, span, first_row, block, scale):
    """out and lse of 64 rows from first_row on, in the order in which a warpgroup computes them."""
    rows = [first_row + row_of(LANE, WARP, half) for half in (0, 1)]
    o = np.zeros((64, WIDTH))
    peak, total = [np.full(128, -np.inf)] * 2, [np.zeros(128)] * 2
    is_first = True
    for entry in range(*span):
        piece, side, where = visits.side_of(entries, entry)
        length, low, high, also = visits.visit_of(entries, entry)
        assert (length, also) == (side[1], where)
        loads = loads_of(areas[piece > 0], side)
        for i in range(where[2] + where[3]):
            tile = nth(i, where)
            k, v = (area.tile(place, tile, block) for area, place in loads)
            scores = spread(q @ k.T)
            if i < where[3] or is_first:
                online.masked(scores, LANE, rows, tile * block, length, low, high, NUMPY)
            is_first = False
            fades, peak, total = online.soften(scores, peak, total, scale, NUMPY)
            faded = [x * fades[j // 2 % 2] for j, x in enumerate(spread(o))]
            o = tile_held(faded) + tile_held(scores) @ v
    ends = [online.finished(peak[half], total[half], NUMPY) for half in (0, 1)]
    out = tile_held([x * ends[j // 2 % 2][0] for j, x in enumerate(spread(o))])
    lse = np.full(64, np.nan)
    for half in (0, 1):
        lse[rows[half] - first_row] = ends[half][1]
    return out, lse


def truth(q, areas, seen):
    """Of one row, over (piece, key) that it sees."""
    if not seen:
        return np.zeros(WIDTH), -np.inf
    k, v = (
        np.stack([areas[piece > 0][i].memory[key, HEAD] for piece, key in seen]) for i in (0, 1)
    )
    scores = 0.3 * k @ q
    lse = np.logaddexp.reduce(scores)
    return np.exp(scores - lse) @ v, lse


@given(rings(), bands, st.sampled_from([8, 16]), st.booleans(), st.integers(0, 9))
def test_every_row_sums_over_the_keys_of_all_pieces_that_it_sees(ring, band, block, join, seed):
    rows, keys = ring
    where = gathered(rows, keys, band, join=join)
    draw = np.random.default_rng(seed)
    count = max(chunk.tokens.stop for chunk in rows)
    landed = max((chunk.tokens.stop for piece, chunk in keys if piece), default=0)
    areas = [[Area(n, draw) for _ in "kv"] for n in (count, landed)]
    q = draw.standard_normal((count + 64, WIDTH))  # behind the last row what TMA brings is finite
    work = worklist(where, "rows", 64, block, CPU)
    table, entries = (x.flatten().tolist() for x in (work.tiles, work.entries))
    allowed = sorted(pairs(where.rows))
    done = []
    for number in range(work.count):
        (first, stop), span = visits.tile_of(table, number)
        mine = q[first : first + 64]
        with np.errstate(divide="ignore"):  # log2 of 0 is the -inf of a row without keys
            out, lse = by_visits(mine, areas, entries, span, first, block, 0.3 * online.LOG2E)
        for row in range(first, min(stop, first + 64)):
            seen = [(piece, key) for i, piece, key in allowed if i == row]
            wanted, wanted_lse = truth(q[row], areas, seen)
            np.testing.assert_allclose(out[row - first], wanted, rtol=0, atol=1e-13)
            np.testing.assert_allclose(lse[row - first], wanted_lse, rtol=1e-13, atol=1e-13)
            done.append(row)

    assert sorted(done) == list(range(count))
