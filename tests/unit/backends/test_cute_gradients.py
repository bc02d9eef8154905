"""The CuTe backward's warpgroups on numpy: their own steps, with products that run late."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.played_kernels import fresh, plain
from tests.warpgroup import LANE, NUMPY, WARP, Registers, Slots, TensorCores, gathered

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute.online import LOG2E
from ring_attn_backends.cute.programs import nth, nth_of_heads, row_of, seen

FAR = 2**30
WIDTH = 16
bounds = st.integers(-70, 70)
bands = st.tuples(st.one_of(bounds, st.just(-FAR)), st.one_of(bounds, st.just(FAR)))
SOFTCAPS = st.sampled_from([0.0, 2.0])


key_gradients, row_gradients = fresh("key_gradients"), fresh("row_gradients")
backward_dkdv, backward_dq = fresh("backward_dkdv"), fresh("backward_dq")
LOOPS = SimpleNamespace(
    range=lambda *x, unroll: range(*x), range_constexpr=range, const_expr=bool, max=max
)


def factors(softcap):
    if softcap:
        return 0.3 / softcap, softcap * LOG2E
    return 0.3 * LOG2E, 0.0


def on_numpy(monkeypatch, module, cores):
    """Registers, products and slots of a module's steps are those of `tests.warpgroup`."""
    for name, stand_in in {
        "lanes": NUMPY, "cutlass": LOOPS, "multiply": cores.multiply, "warpgroup": cores,
        "read": list, "rounded": Registers.write,
        "receive": lambda slots, i: slots.receive(i),
        "release": lambda slots, i, lane, there=True: slots.release(i) if there else None,
        "release_loaded": lambda slots, i, lane: slots.release(i),
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


def told(monkeypatch, block, lse, delta, each, where, scale, capped):
    """What the second warp writes, lane by lane."""
    vectors = Told()

    def tell(_, i, numbers, lane):
        lines = vectors.lines.setdefault(i, np.full((2, backward_dkdv.lines(block)), np.nan))
        for vector, values in enumerate(numbers):
            lines[vector, lane::32] = values

    class Thread(list):
        def fill(self, value):
            self[:] = [value] * len(self)

    monkeypatch.setattr(backward_dkdv, "lanes", NUMPY)
    monkeypatch.setattr(backward_dkdv, "cutlass", LOOPS)
    monkeypatch.setattr(backward_dkdv, "tell", tell)
    monkeypatch.setattr(
        backward_dkdv, "cute", SimpleNamespace(make_rmem_tensor=lambda n, _: Thread([np.nan] * n))
    )
    build = SimpleNamespace(config=SimpleNamespace(block=block), capped=capped)
    for lane in range(32):
        arch = SimpleNamespace(WARP_SIZE=32, lane_idx=lambda lane=lane: lane)
        monkeypatch.setattr(backward_dkdv, "arch", arch)
        plain(backward_dkdv._tell)((lse, delta), vectors, 0, each, where, scale, build)
    return vectors


def brought(monkeypatch, module, produce):
    """The tiles that the producer brings, in order: of each pipe a list."""
    pipes = ([], [])
    monkeypatch.setattr(module, "cutlass", LOOPS)
    monkeypatch.setattr(module, "load_at", lambda load, head: head, raising=False)

    def bring(load, tile, pipe, i):
        assert len(pipe) == i
        pipe.append((load, tile))

    monkeypatch.setattr(module, "bring", bring)
    produce(*pipes)
    return pipes


def cut(x, tile, block):
    """A tile of a matrix, with zeros behind its end, as TMA brings it."""
    part = x[tile * block : (tile + 1) * block]
    return np.concatenate([part, np.zeros((block - len(part), x.shape[1]))])


def drawn(rows, keys, heads, seed):
    """q and dout (rows, heads, width), k and v (keys, width), lse and delta (rows, heads)."""
    draw = np.random.default_rng(seed)
    q, dout = draw.standard_normal((2, rows, heads, WIDTH))
    k, v = draw.standard_normal((2, keys, WIDTH))
    return q, dout, k, v, draw.standard_normal((rows, heads))


def truth(q, dout, k, v, delta, band, softcap):
    """lse, dq, dk and dv of one key head; of the lse half a nat is of keys elsewhere."""
    scores = 0.3 * np.einsum("ihd,jd->hij", q, k)
    slope = 1.0
    if softcap:
        tanh = np.tanh(scores / softcap)
        scores, slope = softcap * tanh, 1 - tanh**2
    distance = np.arange(len(q))[:, None] - np.arange(len(k))
    scores = np.where((distance >= band[0]) & (distance <= band[1]), scores, -np.inf)
    lse = np.logaddexp.reduce(scores, axis=2).T + 0.5
    p = np.exp(scores - np.where(np.isinf(lse), 0.0, lse).T[..., None])
    dp = np.einsum("ihd,jd->hij", dout, v)
    ds = p * (dp - delta.T[..., None]) * slope * 0.3
    return (
        lse, np.einsum("hij,jd->ihd", ds, k), np.einsum("hij,ihd->jd", ds, q),
        np.einsum("hij,ihd->jd", p, dout),
    )  # fmt: skip


def config_of(block, ahead):
    return SimpleNamespace(block=block, ahead=ahead)


@settings(max_examples=40)
@given(
    first_key=st.integers(0, 60), keys=st.integers(1, 130), rows=st.integers(1, 150),
    heads=st.integers(1, 3), band=bands, block=st.sampled_from([16, 48]), softcap=SOFTCAPS,
    ahead=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_row_tiles_of_all_heads_add_up_to_dk_and_dv(
    first_key, keys, rows, heads, band, block, softcap, ahead, seed
):
    first_key = min(first_key, keys - 1)
    q, dout, k, v, delta = drawn(rows, keys, heads, seed)
    with np.errstate(divide="ignore"):
        lse, _, *expected = truth(q, dout, k, v, delta, band, softcap)
    low, high = band
    scale, cap = factors(softcap)
    last_key = min(first_key + 64, keys) - 1
    where = seen(first_key, last_key, -high, -low, rows, block)
    own = slice(first_key, last_key + 1)
    cores = TensorCores()
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        queries, douts = (
            Slots([cut(x[:, head], tile, block) for head, tile in order], 2)
            for x, order in zip(
                (q, dout),
                brought(
                    patch, backward_dkdv,
                    lambda *pipes: plain(backward_dkdv._produce)(
                        (None, None), *pipes, 0, heads, where
                    ),
                ),
                strict=True,
            )
        )  # fmt: skip
        vectors = told(patch, block, lse, delta, heads, where, scale, softcap > 0)
        on_numpy(patch, key_gradients, cores)
        patch.setattr(key_gradients, "flat", lambda x: x)
        patch.setattr(
            key_gradients, "cute",
            SimpleNamespace(size=len, make_rmem_tensor=lambda n, _: Registers(2 * n)),
        )  # fmt: skip
        patch.setattr(
            key_gradients, "pair_of",
            lambda line, place: SimpleNamespace(load=lambda: (line[place], line[place + 1])),
        )  # fmt: skip
        held = key_gradients.Held(
            *(Registers(block) for _ in range(4)), *(Registers(WIDTH) for _ in range(2))
        )
        for x in (held.dk, held.dv):
            x.write([np.zeros(128)] * len(x))
        given = key_gradients.Given(
            LANE, [first_key + row_of(LANE, WARP, half) for half in (0, 1)],
            *(cut(x[own], 0, 64) for x in (k, v)), queries, douts, queries.columns, douts.columns,
            queries, douts, vectors, None, None, (rows, keys, low, high, scale, cap, 0.3),
            SimpleNamespace(config=config_of(block, ahead), capped=softcap > 0),
        )  # fmt: skip
        plain(key_gradients.walk)(held, given, where, heads)

    assert not cores.asked, "somebody read sums that were not done"
    count = last_key + 1 - first_key
    for registers, factor, exact in zip((held.dk, held.dv), (0.3, 1.0), expected, strict=True):
        got = factor * gathered(registers)[:count]
        np.testing.assert_allclose(got, exact[own], rtol=0, atol=1e-12)


@settings(max_examples=40)
@given(
    first_row=st.integers(0, 60), rows=st.integers(1, 130), keys=st.integers(1, 150), band=bands,
    block=st.sampled_from([16, 48]), softcap=SOFTCAPS, ahead=st.booleans(),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_key_tiles_add_up_to_dq(first_row, rows, keys, band, block, softcap, ahead, seed):
    first_row = min(first_row, rows - 1)
    q, dout, k, v, delta = drawn(rows, keys, 1, seed)
    with np.errstate(divide="ignore"):
        lse, expected, *_ = truth(q, dout, k, v, delta, band, softcap)
    low, high = band
    scale, cap = factors(softcap)
    last_row = min(first_row + 64, rows) - 1
    where = seen(first_row, last_row, low, high, keys, block)
    own = slice(first_row, last_row + 1)
    cores = TensorCores()
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        order, same = brought(
            patch, backward_dq,
            lambda *pipes: plain(backward_dq._produce)((None, None), *pipes, where),
        )  # fmt: skip
        assert order == same
        k_slots, v_slots = (Slots([cut(x, tile, block) for _, tile in order], 2) for x in (k, v))
        on_numpy(patch, row_gradients, cores)
        held = row_gradients.Held(
            *(Registers(block) for _ in range(3)), Registers(WIDTH), Registers(4), Registers(4)
        )
        held.dq.write([np.zeros(128)] * len(held.dq))
        places = [first_row + row_of(LANE, WARP, half) for half in (0, 1)]
        for half, place in enumerate(places):
            line = np.minimum(place, rows - 1)
            held.starts[half] = row_gradients.slopes.start(lse[line, 0], NUMPY)
            held.deltas[half] = delta[line, 0]
        given = row_gradients.Given(
            LANE, places, *(cut(x[own, 0], 0, 64) for x in (q, dout)), k_slots, v_slots,
            k_slots.columns, k_slots, v_slots, None, None,
            (rows, keys, low, high, scale, cap, 0.3),
            SimpleNamespace(config=config_of(block, ahead), capped=softcap > 0),
        )  # fmt: skip
        plain(row_gradients.walk)(held, given, where)

    assert not cores.asked
    got = 0.3 * gathered(held.dq)[: last_row + 1 - first_row]
    np.testing.assert_allclose(got, expected[own, 0], rtol=0, atol=1e-12)


@given(where=st.tuples(*[st.integers(0, 5)] * 4), each=st.integers(1, 4))
def test_every_head_s_tiles_are_visited_once_and_its_edges_first(where, each):
    edges, count = where[3], where[2] + where[3]
    visited = [nth_of_heads(i, each, where) for i in range(each * count)]
    of_one = [nth(i, where) for i in range(count)]

    assert sorted(visited) == sorted((head, tile) for head in range(each) for tile in of_one)
    assert {tile for _, tile in visited[: each * edges]} == set(of_one[:edges])


@pytest.mark.parametrize("capped", [False, True])
def test_rows_that_see_no_key_have_weights_of_zero_without_a_mask(capped):
    starts = [row_gradients.slopes.start(np.full(128, -np.inf), NUMPY)]
    scores = [np.linspace(-9, 9, 128)]
    if capped:
        row_gradients.slopes.capped_weights(scores, starts, 0.1, 20.0, NUMPY)
    else:
        row_gradients.slopes.weights(scores, starts, 0.1, NUMPY)

    assert (scores[0] == 0).all()
