"""The CuTe backward's warpgroups on numpy: their own steps, with products that run late."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.online import LOG2E
from ring_attn_backends.cute.programs import Visit, nth, nth_of_heads, seen

from tests.played_kernels import plain
from tests.warpgroup import NUMPY, Slots, TensorCores, gathered

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from tests.backward_on_numpy import (
    WIDTH,
    WIDTH_V,
    brought,
    build_of,
    cut,
    key_gradients,
    keys_at_work,
    on_numpy,
    one_gradient,
    pipes,
    row_gradients,
    row_tiles,
    rows_at_work,
    told,
)

FAR = 2**30
bounds = st.integers(-70, 70)
bands = st.tuples(st.one_of(bounds, st.just(-FAR)), st.one_of(bounds, st.just(FAR)))
SOFTCAPS = st.sampled_from([0.0, 2.0])


def factors(softcap):
    if softcap:
        return 0.3 / softcap, softcap * LOG2E
    return 0.3 * LOG2E, 0.0


def drawn(rows, keys, heads, seed):
    """q and dout (rows, heads, width), k and v (keys, width), lse and delta (rows, heads)."""
    draw = np.random.default_rng(seed)
    q, dout = (draw.standard_normal((rows, heads, width)) for width in (WIDTH, WIDTH_V))
    k, v = (draw.standard_normal((keys, width)) for width in (WIDTH, WIDTH_V))
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


@pytest.mark.parametrize("of", ["dkdv", "dk", "dv"])
@settings(max_examples=40)
@given(
    first_key=st.integers(0, 60), keys=st.integers(1, 130), rows=st.integers(1, 150),
    heads=st.integers(1, 3), band=bands, block=st.sampled_from([16, 48]), softcap=SOFTCAPS,
    ahead=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
def test_row_tiles_of_all_heads_add_up_to_dk_and_dv(
    of, first_key, keys, rows, heads, band, block, softcap, ahead, seed
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
    cores, build = TensorCores(), build_of(block, ahead=ahead, capped=softcap > 0, of=of)
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        orders = brought(
            patch, row_tiles,
            lambda into: plain(row_tiles.bring_rows)((None, None), into, (0, heads), where, 0),
        )  # fmt: skip
        slots = [
            Slots([cut(x[:, head], tile * block, block) for (_, head), tile in order], 2)
            for x, order in zip((q, dout), orders, strict=True)
        ]
        vectors = told(
            patch, block,
            lambda into: plain(row_tiles.tell_rows)(
                (lse, delta), into, (0, rows), (0, heads), where, 0, scale, build
            ),
        )  # fmt: skip
        on_numpy(patch, key_gradients, cores)
        on_numpy(patch, one_gradient, cores)
        held, given = keys_at_work(
            *(cut(x[own], 0, 64) for x in (k, v)), first_key, slots, vectors, (scale, cap, 0.3),
            build,
        )  # fmt: skip
        module = key_gradients if of == "dkdv" else one_gradient
        plain(module.walk)(held, given, Visit(rows, low, high, where), heads)

    assert not cores.asked, "somebody read sums that were not done"
    count = last_key + 1 - first_key
    sums = held.dk, held.dv
    assert [x is not None for x in sums] == [of != "dv", of != "dk"]
    for registers, factor, exact in zip(sums, (0.3, 1.0), expected, strict=True):
        if registers is None:
            continue
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
    cores, build = TensorCores(), build_of(block, ahead=ahead, capped=softcap > 0)
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        order, same = brought(
            patch, pipes, lambda into: plain(pipes.bring_abreast)((None, None), into, where, 0)
        )
        assert order == same
        slots = [Slots([cut(x, tile * block, block) for _, tile in order], 2) for x in (k, v)]
        on_numpy(patch, row_gradients, cores)
        held, given = rows_at_work(
            *(cut(x[own, 0], 0, 64) for x in (q, dout)), first_row, (lse[:, 0], delta[:, 0]), slots,
            (scale, cap, 0.3), build,
        )  # fmt: skip
        plain(row_gradients.walk)(held, given, Visit(keys, low, high, where))

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
