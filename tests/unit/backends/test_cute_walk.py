"""What the CuTe kernel counts and softens: its own lines, with Python's integers and numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.cute import online
from ring_attn_backends.cute.programs import column_of, nth, row_of, seen, tile_and_head

from tests.warpgroup import LANE, NUMPY, WARP, gathered, spread

FAR = 2**30
bounds = st.integers(-70, 70)
bands = st.tuples(st.one_of(bounds, st.just(-FAR)), st.one_of(bounds, st.just(FAR)))


@given(
    first=st.integers(0, 60), rows=st.integers(1, 40), keys=st.integers(1, 100), band=bands,
    block=st.sampled_from([8, 16, 24]),
)  # fmt: skip
def test_every_visible_pair_is_in_one_tile_and_whole_tiles_hold_no_other(
    first, rows, keys, band, block
):
    low, high = band
    where = seen(first, first + rows - 1, low, high, keys, block)
    edges, count = where[3], where[2] + where[3]
    tiles = [nth(i, where) for i in range(count)]
    visible = {
        (i, j) for i in range(first, first + rows) for j in range(keys) if low <= i - j <= high
    }

    assert min(where) >= 0
    assert len(set(tiles)) == count
    assert {j // block for _, j in visible} <= set(tiles)
    for tile in tiles[edges:]:
        inside = range(tile * block, (tile + 1) * block)
        assert all((i, j) in visible for i in range(first, first + rows) for j in inside)


@pytest.mark.parametrize(("tiles", "heads", "section"), [(5, 6, 4), (1, 3, 3), (7, 8, 1)])
def test_programs_take_every_tile_of_every_head_once_and_the_longest_of_a_section_first(
    tiles, heads, section
):
    taken = [tile_and_head(i, tiles, heads, section) for i in range(tiles * heads)]

    assert sorted(taken) == [(tile, head) for tile in range(tiles) for head in range(heads)]
    for first in range(0, heads, section):
        own = [tile for tile, head in taken if first <= head < first + section]
        assert own == sorted(own)


def test_a_warpgroup_s_threads_hold_every_number_of_a_tile_once():
    places = [
        (int(row), int(column))
        for i in range(24 // 2)
        for row, column in zip(
            row_of(LANE, WARP, i // 2 % 2), column_of(LANE, i) + 0 * LANE, strict=True
        )
    ]

    assert sorted(places) == [(row, column) for row in range(64) for column in range(24)]


def by_tiles(q, k, v, band, block, first_row, scale, cap=0.0, carried=None):
    """out and lse of 64 rows from first_row on, in the order in which a warpgroup computes them."""
    low, high = band
    keys = len(k)
    where = seen(first_row, first_row + 63, low, high, keys, block)
    edges, count = where[3], where[2] + where[3]
    rows = [first_row + row_of(LANE, WARP, half) for half in (0, 1)]
    o = np.zeros((64, v.shape[1]))
    peak, total = [np.full(128, -np.inf)] * 2, [np.zeros(128)] * 2
    if carried is not None:
        o, lse = carried
        states = [online.carried(lse[row - first_row], LANE, NUMPY) for row in rows]
        peak, total = map(list, zip(*states, strict=True))
    room = np.zeros((-(-keys // block) * block, q.shape[1]))
    padded_k, padded_v = (np.concatenate([x, room])[: len(room)] for x in (k, v))  # by TMA
    for i in range(count):
        tile = nth(i, where)
        part = slice(tile * block, (tile + 1) * block)
        scores, factor = spread(q @ padded_k[part].T), scale
        if cap:
            online.capped(scores, scale, cap, NUMPY)
            factor = 1.0
        if i < max(edges, 1):
            online.masked(scores, LANE, rows, tile * block, keys, low, high, NUMPY)
        fades, peak, total = online.soften(scores, peak, total, factor, NUMPY)
        registers = [x * fades[j // 2 % 2] for j, x in enumerate(spread(o))]
        o = gathered(registers) + gathered(scores) @ padded_v[part]
    ends = [online.finished(peak[half], total[half], NUMPY) for half in (0, 1)]
    out = gathered([x * ends[j // 2 % 2][0] for j, x in enumerate(spread(o))])
    lse = np.full(64, np.nan)
    for half in (0, 1):
        lse[rows[half] - first_row] = ends[half][1]
    return out, lse


def truth(q, k, v, band, first_row, scale, softcap=0.0):
    scores = scale * q @ k.T
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = first_row + np.arange(64)[:, None] - np.arange(len(k))[None, :]
    scores = np.where((distance >= band[0]) & (distance <= band[1]), scores, -np.inf)
    lse = np.logaddexp.reduce(scores, axis=1)
    weights = np.exp(scores - np.where(np.isinf(lse), 0.0, lse)[:, None])
    return weights @ v, lse


def drawn(keys, seed):
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((n, 16)) for n in (64, keys, keys))


@given(
    first_row=st.integers(0, 90), keys=st.integers(1, 150), band=bands,
    block=st.sampled_from([16, 24]), softcap=st.sampled_from([0.0, 2.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_warpgroup_s_tiles_add_up_to_attention(first_row, keys, band, block, softcap, seed):
    q, k, v = drawn(keys, seed)
    if softcap:
        scale, cap = 0.3 / softcap, softcap * online.LOG2E
    else:
        scale, cap = 0.3 * online.LOG2E, 0.0

    with np.errstate(divide="ignore"):  # log2 of 0 is the -inf of a row without keys
        out, lse = by_tiles(q, k, v, band, block, first_row, scale, cap)
    expected, expected_lse = truth(q, k, v, band, first_row, 0.3, softcap)

    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-13, atol=1e-13)


@given(keys=st.integers(2, 90), cut=st.integers(1, 89), band=bands, seed=st.integers(0, 9))
def test_sums_that_are_gone_on_from_are_those_of_all_keys(keys, cut, band, seed):
    cut = min(cut, keys - 1)
    q, k, v = drawn(keys, seed)
    scale = 0.3 * online.LOG2E
    shifted = tuple(x if abs(x) == FAR else x + cut for x in band)  # keys counted from the cut on

    with np.errstate(divide="ignore"):
        before = by_tiles(q, k[:cut], v[:cut], band, 16, 0, scale)
        again = by_tiles(q, k[cut:], v[cut:], shifted, 16, 0, scale, carried=before)
    expected, expected_lse = truth(q, k, v, band, 0, 0.3)

    np.testing.assert_allclose(again[0], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(again[1], expected_lse, rtol=1e-13, atol=1e-13)
