"""The CuTe backward that adds to dq on numpy: shares of all programs are dq, beside dk and dv."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.programs import Visit, all_edges, nth, nth_of_heads, seen
from ring_attn_backends.cute.table import Config

from tests.played_kernels import fresh, plain
from tests.warpgroup import LANE, WARP, spread

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from tests.backward_on_numpy import WIDTH, cut, row_tiles, told
from tests.shares_on_numpy import run_warpgroups, shares
from tests.unit.backends.test_cute_gradients import FAR, SOFTCAPS, bands, drawn, factors, truth


def gradients(q, dout, k, v, lines, band, score, config):
    """dq (rows, heads, width), dk and dv (keys, width) of one key head, program after program."""
    (rows, heads, _), keys = q.shape, len(k)
    dq = np.zeros(q.shape)
    found = [np.full(x.shape, np.nan) for x in (k, v)]
    scale, cap = score
    build = SimpleNamespace(
        config=config, capped=cap > 0, carried=False, has_dk=True, has_dv=True
    )  # fmt: skip
    low, high = band
    lse, delta = lines
    for first_key in range(0, keys, config.own):
        last_key = min(first_key + config.own, keys) - 1
        where = seen(first_key, last_key, -high, -low, rows, config.block)
        where = all_edges(where, first_key + config.own > keys)
        count = heads * (where[2] + where[3])
        order = [nth_of_heads(i, heads, where) for i in range(count)]
        with pytest.MonkeyPatch.context() as patch:
            vectors = told(
                patch, config.block,
                lambda into, where=where: plain(row_tiles.tell_rows)(
                    (lse, delta), into, (0, rows), (0, heads), where, 0, scale, build
                ),
            )  # fmt: skip
            run_program(
                patch, (q, dout, k, v), order, vectors, dq, found, first_key,
                Visit(rows, low, high, where), (scale, cap, 0.3), build,
            )  # fmt: skip
    return dq, *found


def run_program(patch, tensors, order, vectors, dq, found, first_key, visit, score, build):
    """One program, whose row tiles come in that order; TMA adds to dq what it stages."""
    q, dout, k, v = tensors
    block, keys = build.config.block, (first_key, len(k))

    def add(i, tile):
        head, number = order[i]
        into = dq[number * block : (number + 1) * block, head]
        into += tile[: len(into)]

    tiles = [[cut(x[:, head], n * block, block) for head, n in order] for x in (q, dout)]
    own = [cut(x, first_key, build.config.own) for x in (k, v)]

    def gather(pipes, product):
        products = None, None, product
        plain(shares.gather)(pipes, products, found, keys, visit, dq.shape[1], score, build)

    run_warpgroups(patch, build.config, tiles, own, vectors, add, gather)


CONFIGS = st.builds(
    lambda tile, shown: Config(WIDTH, tile[1], 2, tile[0], ahead=False, shown=shown),
    st.sampled_from([(1, 64), (2, 64), (2, 128)]), st.integers(2, 3),
)  # fmt: skip


@settings(phases=[Phase.generate], max_examples=30)
@given(
    keys=st.integers(1, 200), rows=st.integers(1, 150), heads=st.integers(1, 3), band=bands,
    softcap=SOFTCAPS, config=CONFIGS, seed=st.integers(0, 9),
)  # fmt: skip
def test_shares_of_all_programs_add_up_to_dq_beside_dk_and_dv(
    keys, rows, heads, band, softcap, config, seed
):
    q, dout, k, v, delta = drawn(rows, keys, heads, seed)
    with np.errstate(divide="ignore"):
        lse, *expected = truth(q, dout, k, v, delta, band, softcap)

    got = gradients(q, dout, k, v, (lse, delta), band, factors(softcap), config)

    for found, exact in zip(got, expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def test_keys_behind_the_end_whose_weights_would_be_infinite_add_nothing():
    """Their scores are 0, where those of keys that there are lie at -2000 and below."""
    q, dout, k, v, delta = drawn(70, 70, 1, 1)
    direction = np.ones(WIDTH)
    q, k = q + 20 * direction, k - 20 * direction
    whole = (-FAR, FAR)
    lse, *expected = truth(q, dout, k, v, delta, whole, 0.0)
    assert lse.max() < -1000

    config = Config(WIDTH, 64, 2, 2, ahead=False, shown=2)
    got = gradients(q, dout, k, v, (lse, delta), whole, factors(0.0), config)

    for found, exact in zip(got, expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9)


@given(where=st.tuples(*[st.integers(0, 5)] * 4))
def test_where_every_tile_needs_a_mask_they_are_the_same_tiles(where):
    masked = all_edges(where, True)
    count = where[2] + where[3]

    assert masked[2:] == (0, count)
    assert sorted(nth(i, masked) for i in range(count)) == list(range(where[0], where[0] + count))
    assert all_edges(where, False) == where


@pytest.mark.parametrize(("size", "span"), [(2, 64), (4, 32)], ids=["16 bits", "float32"])
@pytest.mark.parametrize("part", [0, 1])
def test_a_tile_is_laid_as_tma_and_tensor_cores_swizzle_it(monkeypatch, size, span, part):
    """Against a swizzle of addresses: of their bits 4 to 6 with bits 7 to 9."""
    registers, row, column = fresh("registers"), 64 * part, span * part
    rows, columns, slot = 128, 128, 1
    memory = np.full(2 * rows * columns, np.nan)
    tile = np.arange(64.0 * 64).reshape(64, 64)
    numbers = spread(tile)

    def straight(place, _):
        r, c, s = place
        in_atom = r % 8 * span + c % span
        atom = r // 8 + c // span * (rows // 8)
        return s * rows * columns + atom * 8 * span + in_atom

    class Tensor(list):
        element_type = SimpleNamespace(width=8 * size)

        @property
        def iterator(self):
            return At(self)

    class At:
        def __init__(self, tensor, i=0):
            self.tensor, self.i = tensor, i

        def __add__(self, i):
            return At(self.tensor, self.i + i)

        def load(self):
            return self.tensor[self.i : self.i + 2]

        def store(self, pair):
            for step, x in enumerate(pair):
                self.tensor[self.i + step] = x

    monkeypatch.setattr(registers, "flat", lambda x: x)
    monkeypatch.setattr(registers, "cute", SimpleNamespace(
        recast_ptr=lambda x: x, crd2idx=straight, size=len, make_layout=lambda _: None,
        make_tensor=lambda at, _: at, assume=lambda x, divby: x,
    ))  # fmt: skip
    slots = SimpleNamespace(iterator=At(memory), layout=None)
    registers.lay(Tensor(numbers), slots, slot, row + 16 * WARP, column, LANE)

    r, c = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    address = straight((row + r, column + c, slot), None) * size
    swizzled = (address ^ (address >> 7 & 7) << 4) // size
    np.testing.assert_array_equal(memory[swizzled], tile)
    assert np.isnan(memory).sum() == len(memory) - tile.size
