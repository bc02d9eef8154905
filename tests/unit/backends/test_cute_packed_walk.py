"""Which document a program of the CuTe kernels finds, and what it computes of it, on numpy."""

import heapq
from itertools import accumulate, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute import online, table
from ring_attn_backends.cute.packed.launch import sizes_of
from ring_attn_backends.cute.programs import nth, row_of, tile_and_head

from tests.warpgroup import LANE, NUMPY, WARP, Slots, TensorCores, gathered, spread

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from tests.backward_on_numpy import (
    brought,
    build_of,
    key_gradients,
    keys_at_work,
    on_numpy,
    pipes,
    row_gradients,
    row_tiles,
    rows_at_work,
    told,
)
from tests.packed_on_numpy import LEVELS, WIDTH, Matrix, place_of, programs
from tests.played_kernels import plain

FAR, OWN, EACH = 2**30, 64, 2
LOG2E = online.LOG2E
lengths = st.one_of(st.sampled_from([0, 1, 8, 64, 65, 130]), st.integers(0, 200))
bands = st.sampled_from(
    [(-FAR, FAR), (0, FAR), (0, 40), (-9, 30), (-FAR, 50), (-70, FAR), (0, 0)]
)  # fmt: skip


def starts_of(first, counts):
    return np.array([*accumulate(counts, initial=first)])


@given(
    documents=st.lists(st.tuples(lengths, lengths), min_size=1, max_size=80),
    band=bands, own=st.sampled_from([16, 48, 64]), of_keys=st.booleans(),
    first=st.integers(0, 3), alike=st.booleans(),
)  # fmt: skip
def test_every_tile_is_one_program_s_and_those_that_pass_most_come_first(
    documents, band, own, of_keys, first, alike
):
    documents = [(rows, rows if alike else keys) for rows, keys in documents]
    starts = [starts_of(first, side) for side in zip(*documents, strict=True)]
    tiles = {
        (document, tile)
        for document, sides in enumerate(documents)
        for tile in range(-(-sides[of_keys] // own))
    }
    told = [
        place_of(number, starts, own, band[0], of_keys=of_keys) for number in range(len(tiles) + 3)
    ]
    found = [(place.document, place.tile) for place in told]

    assert sorted(found[: len(tiles)]) == sorted(tiles)
    assert {tile for _, tile in found[len(tiles) :]} == {-1}
    for place in told[: len(tiles)]:
        sides = [slice(x[place.document], x[place.document + 1]) for x in starts]
        assert sides[0] == slice(place.first_row, place.first_row + place.rows)
        assert sides[1] == slice(place.first_key, place.first_key + place.keys)
    passed = [reach(documents[document], tile, own, band[0], of_keys) for document, tile in
              found[: len(tiles)]]  # fmt: skip
    level = max(sides[not of_keys] for sides in documents) // LEVELS + 1
    assert all(a > b - level - own for a, b in pairwise(passed))


def reach(sides, tile, own, low, of_keys):
    """Keys up to the last one that a tile's rows see, or rows from the first that sees its keys."""
    (rows, keys), first = sides, tile * own
    if of_keys:
        return rows - min(max(first + low - (keys - rows), 0), rows)
    last = min(first + own, rows) - 1
    return min(max(last - (low - (keys - rows)) + 1, 0), keys)


def test_documents_of_one_length_lie_in_their_order_level_by_level():
    starts = [starts_of(0, [200] * 40)] * 2

    found = [place_of(number, starts, 64, -FAR, of_keys=False) for number in range(160)]

    assert [place.document for place in found] == [i // 4 for i in range(160)]
    assert [place.tile for place in found] == [3, 2, 1, 0] * 40


@pytest.mark.parametrize("low", [-FAR, 0], ids=["full", "causal"])
@pytest.mark.parametrize(
    ("kernel", "config"),
    [("forward", config) for config in table.PACKED_CANDIDATES[128]]
    + [(name, table.BACKWARD[name, 128]) for name in ("backward_dq", "backward_dkdv")],
    ids=str,
)
def test_multiprocessors_end_together_over_documents_of_mixed_lengths(kernel, config, low):
    """Each takes the next program when it is done with one: the last ends soon after the mean."""
    build = table.Build(config, "bfloat16", "bfloat16", kernel=f"packed.{kernel}")
    of_keys = kernel == "backward_dkdv"
    # 16,384 tokens, as scripts/documents.py draws them
    lengths = [534, 693, 1540, 594, 3628, 107, 922, 158, 625, 471, 469, 54, 737, 1412, 4440]
    starts = [starts_of(0, lengths)] * 2
    q, k = (
        torch.empty(16384, heads, 128, dtype=torch.bfloat16, device="meta") for heads in (16, 4)
    )
    *_, section, tiles = sizes_of(build, q, k, len(lengths))
    visit_of = programs.keys_visit if of_keys else programs.rows_visit
    costs = []
    for number in range(tiles):
        place = place_of(number, starts, config.own, low, of_keys=of_keys)
        where = visit_of(place, (low, FAR), config)[1].where
        costs.append(1 + where[2] + where[3] if place.tile >= 0 else 0)
    heads = 4 if of_keys else 16
    busy = [0] * 132
    for number in range(tiles * heads):
        heapq.heapreplace(busy, busy[0] + costs[tile_and_head(number, tiles, heads, section)[0]])

    assert max(busy) < 1.06 * sum(busy) / len(busy)


class Problem:
    """Documents in a row of tokens, and all results by sums over the pairs that are seen.

    q, dout (T, EACH, WIDTH); k, v (S, WIDTH), of one key head of three; NaN outside of documents.
    """

    def __init__(self, documents, band, first, softcap, seed):
        draw = np.random.default_rng(seed)
        self.starts = [starts_of(first, side) for side in zip(*documents, strict=True)]
        self.band = band
        T, S = (x[-1] for x in self.starts)
        self.q, self.dout = draw.standard_normal((2, T, EACH, WIDTH))
        self.k, self.v = np.full((2, S, 3, WIDTH), np.nan)
        self.k[:, 1], self.v[:, 1] = draw.standard_normal((2, S, WIDTH))
        self.delta = draw.standard_normal((T, EACH))
        for x in (self.q, self.dout, self.k, self.v, self.delta):
            x[:first] = np.nan
        self.scale = 0.3 / softcap if softcap else 0.3
        self.factors = self.scale * (1 if softcap else LOG2E), softcap * LOG2E, 0.3
        self.matrices = {x: Matrix(getattr(self, x)) for x in ("q", "dout", "k", "v")}
        self.out, self.dq = np.full((2, T, EACH, WIDTH), np.nan)
        self.lse = np.full((T, EACH), np.nan)
        self.dk, self.dv = np.full((2, S, WIDTH), np.nan)
        for (row, row_stop), (key, key_stop) in zip(*map(pairwise, self.starts), strict=True):
            self._sum(slice(row, row_stop), slice(key, key_stop), softcap)

    def _sum(self, rows, keys, softcap):
        q, dout, delta = self.q[rows], self.dout[rows], self.delta[rows]
        k, v = self.k[keys, 1], self.v[keys, 1]
        behind = len(k) - len(q)
        distance = np.arange(len(q))[:, None] + behind - np.arange(len(k))
        seen = (distance >= self.band[0]) & (distance <= self.band[1])
        scores, slope = 0.3 * np.einsum("ihd,jd->hij", q, k), 1.0
        if softcap:
            tanh = np.tanh(scores / softcap)
            scores, slope = softcap * tanh, 1 - tanh**2
        scores = np.where(seen, scores, -np.inf)
        lse = np.logaddexp.reduce(scores, axis=2, initial=-np.inf)
        p = np.exp(scores - np.where(np.isinf(lse), 0.0, lse)[..., None])
        ds = p * (np.einsum("ihd,jd->hij", dout, v) - delta.T[..., None]) * slope * 0.3
        self.lse[rows], self.out[rows] = lse.T, np.einsum("hij,jd->ihd", p, v)
        self.dq[rows] = np.einsum("hij,jd->ihd", ds, k)
        self.dk[keys] = np.einsum("hij,ihd->jd", ds, q)
        self.dv[keys] = np.einsum("hij,ihd->jd", p, dout)

    def places(self, of_keys):
        """Of all programs of a head that have a tile."""
        owned = self.starts[of_keys]
        most = (owned[-1] + (len(owned) - 1) * (OWN - 1)) // OWN
        for number in range(most):
            place = place_of(number, self.starts, OWN, self.band[0], of_keys=of_keys)
            if place.tile >= 0:
                yield place

    def load(self, name, side, head=None):
        """The producer's own lines: how tiles of a document come."""
        part = self.matrices[name].all
        if head is not None:
            part = part[None, None, head, None, None]
        return programs.load_from(None, part, side, None)


asked = given(
    documents=st.lists(st.tuples(lengths, lengths), min_size=1, max_size=4), band=bands,
    block=st.sampled_from([16, 48]), first=st.sampled_from([0, 5]),
    softcap=st.sampled_from([0.0, 2.0]), seed=st.integers(0, 9),
)  # fmt: skip


def made(documents, band, first, softcap, seed):
    with np.errstate(divide="ignore", invalid="ignore"):
        return Problem(documents, band, first, softcap, seed)


def config_of(block):
    return SimpleNamespace(own=OWN, block=block)


def forward_of(problem, place, head, block, capped):
    """out and lse of a tile of 64 rows, in the order in which a warpgroup computes them."""
    first, (length, low, high, where) = programs.rows_visit(place, problem.band, config_of(block))
    of_rows, of_keys = (place.first_row, place.rows), (place.first_key, place.keys)
    q = problem.load("q", of_rows, head).tile(place.tile, OWN)
    k_load, v_load = (problem.load(x, of_keys, 1) for x in "kv")
    rows = [first + row_of(LANE, WARP, half) for half in (0, 1)]
    o = np.zeros((64, WIDTH))
    peak, total = [np.full(128, -np.inf)] * 2, [np.zeros(128)] * 2
    for i in range(where[2] + where[3]):
        tile, (scale, cap, _) = nth(i, where), problem.factors
        scores = spread(q @ k_load.tile(tile, block).T)
        if capped:
            online.capped(scores, scale, cap, NUMPY)
            scale = 1.0
        if i < max(where[3], 1):
            online.masked(scores, LANE, rows, tile * block, length, low, high, NUMPY)
        fades, peak, total = online.soften(scores, peak, total, scale, NUMPY)
        faded = [x * fades[j // 2 % 2] for j, x in enumerate(spread(o))]
        o = gathered(faded) + gathered(scores) @ v_load.tile(tile, block)
    ends = [online.finished(peak[half], total[half], NUMPY) for half in (0, 1)]
    out = gathered([x * ends[j // 2 % 2][0] for j, x in enumerate(spread(o))])
    lse = np.full(64, np.nan)
    for half in (0, 1):
        lse[rows[half] - first] = ends[half][1]
    return out, lse


@settings(max_examples=40)
@asked
def test_every_row_of_a_document_sums_over_its_keys(documents, band, block, first, softcap, seed):
    problem, done = made(documents, band, first, softcap, seed), []
    for place in problem.places(of_keys=False):
        head = len(done) % EACH
        with np.errstate(divide="ignore"):  # log2 of 0 is the -inf of a row without keys
            out, lse = forward_of(problem, place, head, block, softcap > 0)
        count = min(OWN, place.rows - place.tile * OWN)
        at = place.first_row + place.tile * OWN
        mine = slice(at, at + count)
        np.testing.assert_allclose(out[:count], problem.out[mine, head], rtol=0, atol=1e-13)
        np.testing.assert_allclose(lse[:count], problem.lse[mine, head], rtol=1e-13, atol=1e-13)
        done += range(at, at + count)

    assert sorted(done) == list(range(first, problem.starts[0][-1]))


def dq_of(problem, place, head, block, build):
    """dq of a tile of 64 rows of a head."""
    first, visit = programs.rows_visit(place, problem.band, config_of(block))
    of_rows, of_keys = (place.first_row, place.rows), (place.first_key, place.keys)
    q, dout = (problem.load(x, of_rows, head).tile(place.tile, OWN) for x in ("q", "dout"))
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        loads = [problem.load(x, of_keys, 1) for x in "kv"]
        orders = brought(
            patch, pipes, lambda into: plain(pipes.bring_abreast)(loads, into, visit.where, 0)
        )
        slots = [Slots([load.tile(tile, block) for load, tile in order], 2) for order in orders]
        cores = TensorCores()
        on_numpy(patch, row_gradients, cores)
        own = slice(place.first_row, place.first_row + place.rows)
        lines = problem.lse[own, head], problem.delta[own, head]
        held, given_ = rows_at_work(q, dout, first, lines, slots, problem.factors, build)
        plain(row_gradients.walk)(held, given_, visit)
    assert not cores.asked
    return 0.3 * gathered(held.dq)


@settings(max_examples=40)
@asked
def test_every_row_of_a_document_sums_over_its_keys_to_its_dq(
    documents, band, block, first, softcap, seed
):
    problem, done = made(documents, band, first, softcap, seed), []
    build = build_of(block, ahead=seed % 2 == 0, capped=softcap > 0)
    for place in problem.places(of_keys=False):
        head = len(done) % EACH
        dq = dq_of(problem, place, head, block, build)
        count = min(OWN, place.rows - place.tile * OWN)
        at = place.first_row + place.tile * OWN
        np.testing.assert_allclose(
            dq[:count], problem.dq[at : at + count, head], rtol=0, atol=1e-12
        )
        done += range(at, at + count)

    assert sorted(done) == list(range(first, problem.starts[0][-1]))


def dkdv_of(problem, place, block, build):
    """dk and dv of a tile of 64 keys, over the rows of all heads that read them."""
    first, visit = programs.keys_visit(place, problem.band, config_of(block))
    of_rows, of_keys = (place.first_row, place.rows), (place.first_key, place.keys)
    k, v = (problem.load(x, of_keys, 1).tile(place.tile, OWN) for x in "kv")
    heads = 0, EACH
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        loads = [problem.load(x, of_rows) for x in ("q", "dout")]
        orders = brought(
            patch, row_tiles,
            lambda into: plain(row_tiles.bring_rows)(loads, into, heads, visit.where, 0),
        )  # fmt: skip
        slots = [
            Slots([load.tile(tile, block, head) for (load, head), tile in order], 2)
            for order in orders
        ]
        vectors = told(
            patch, block,
            lambda into: plain(row_tiles.tell_rows)(
                (problem.lse, problem.delta), into, of_rows, heads, visit.where, 0,
                problem.factors[0], build,
            ),
        )  # fmt: skip
        cores = TensorCores()
        on_numpy(patch, key_gradients, cores)
        held, given_ = keys_at_work(k, v, first, slots, vectors, problem.factors, build)
        plain(key_gradients.walk)(held, given_, visit, EACH)
    assert not cores.asked
    return 0.3 * gathered(held.dk), gathered(held.dv)


@settings(max_examples=40)
@asked
def test_every_key_of_a_document_sums_over_its_rows(documents, band, block, first, softcap, seed):
    problem, done = made(documents, band, first, softcap, seed), []
    build = build_of(block, ahead=seed % 2 == 0, capped=softcap > 0)
    for place in problem.places(of_keys=True):
        results = dkdv_of(problem, place, block, build)
        count = min(OWN, place.keys - place.tile * OWN)
        at = place.first_key + place.tile * OWN
        for got, exact in zip(results, (problem.dk, problem.dv), strict=True):
            np.testing.assert_allclose(got[:count], exact[at : at + count], rtol=0, atol=1e-12)
        done += range(at, at + count)

    assert sorted(done) == list(range(first, problem.starts[1][-1]))
