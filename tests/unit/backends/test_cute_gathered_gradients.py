"""The CuTe backward over gathered keys: its own walks through worklists on numpy, against sums.

What TMA brings is modelled as in `test_cute_gathered_walk.py`, in areas of NaN.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.online import LOG2E
from ring_attn_backends.shared.worklist import worklist

from ring_attn_bench.plan.gathered import gathered
from tests.played_kernels import fresh, plain
from tests.unit.plan.test_gathered import bands, pairs, rings
from tests.warpgroup import Slots, TensorCores
from tests.warpgroup import gathered as tile_held

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute.gathered import visits

from tests.backward_on_numpy import (
    LOOPS,
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
from tests.unit.backends.test_cute_gathered_walk import CPU, HEAD, WIDTH, Area, moved

sending = fresh("gathered.sending")
backward_dkdv, backward_dq = fresh("gathered.backward_dkdv"), fresh("gathered.backward_dq")
EACH = 2
"""Query heads of the key head."""
asked = given(
    rings(), bands, st.sampled_from([16, 48]), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 2.0]), st.integers(0, 9),
)  # fmt: skip


class Problem:
    """A rank's rows, own and landed keys, and all gradients by sums over the pairs that are seen.

    q, dout (rows, EACH, WIDTH), lse, delta (rows, EACH); k, v: of both areas in a row.
    """

    def __init__(self, ring, band, join, softcap, seed):
        rows, keys = ring
        draw = np.random.default_rng(seed)
        self.where = gathered(rows, keys, band, join=join)
        self.rows = max(chunk.tokens.stop for chunk in rows)
        landed = max((chunk.tokens.stop for piece, chunk in keys if piece), default=0)
        self.areas = [[Area(n, draw) for _ in "kv"] for n in (self.rows, landed)]
        self.keys = [
            self.place(piece, key)
            for piece, chunk in keys
            for key in range(chunk.tokens.start, chunk.tokens.stop)
        ]
        self.q, self.dout = draw.standard_normal((2, self.rows, EACH, WIDTH))
        self.delta = draw.standard_normal((self.rows, EACH))
        scale = 0.3 / softcap if softcap else 0.3
        self.factors = scale * (1 if softcap else LOG2E), softcap * LOG2E, 0.3
        self._sum(softcap)

    def place(self, piece, key):
        """Of a key in both areas."""
        return key + self.rows * (piece > 0)

    def _sum(self, softcap):
        k, v = (
            np.concatenate([own.memory[: self.rows, HEAD], landed.memory[:-9, HEAD]])
            for own, landed in zip(*self.areas, strict=True)
        )
        seen = np.zeros((self.rows, len(k)), bool)
        for row, piece, key in pairs(self.where.rows):
            seen[row, self.place(piece, key)] = True
        scores, slope = 0.3 * np.einsum("ihd,jd->hij", self.q, k), 1.0
        if softcap:
            tanh = np.tanh(scores / softcap)
            scores, slope = softcap * tanh, 1 - tanh**2
        scores = np.where(seen, scores, -np.inf)
        # half a nat is of keys elsewhere
        self.lse = np.logaddexp.reduce(scores, axis=2, initial=-np.inf).T + 0.5
        p = np.exp(scores - np.where(np.isinf(self.lse), 0.0, self.lse).T[..., None])
        dp = np.einsum("ihd,jd->hij", self.dout, v)
        ds = p * (dp - self.delta.T[..., None]) * slope * 0.3
        self.dq = np.einsum("hij,jd->ihd", ds, k)
        self.dk = np.einsum("hij,ihd->jd", ds, self.q)
        self.dv = np.einsum("hij,ihd->jd", p, self.dout)


@pytest.fixture(autouse=True)
def as_python():
    """Walks and producers are Python, and nobody waits."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sending, backward_dkdv, backward_dq):
            patch.setattr(module, "cutlass", LOOPS)
            patch.setattr(module, "Int32", int)
        patch.setattr(sending, "cute", moved)
        patch.setattr(sending, "load_of", lambda atom, matrix, pipe: matrix)
        patch.setattr(sending, "await_piece", lambda *_: None)
        for name in ("bring_rows", "tell_rows"):
            patch.setattr(sending, name, plain(getattr(row_tiles, name)))
        patch.setattr(backward_dkdv, "gradients_of", module_of)
        patch.setattr(backward_dq, "row_gradients", row_gradients)
        yield


def module_of(build):
    """As `backward_dkdv.gradients_of`, of modules on numpy."""
    return key_gradients if build.has_dk and build.has_dv else one_gradient


def dkdv_of(problem, table, entries, number, block, build):
    """dk and dv of a tile of 64 keys, in the order in which a warpgroup sums them up."""
    (first, stop), span = visits.tile_of(table, number)
    area = problem.areas[visits.piece_of(table, number) > 0]
    scale, heads, own = problem.factors[0], (0, EACH), []
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        patch.setattr(sending, "order", lambda load, tile, *_: own.append((load, tile)))
        matrices = [(None, x) for x in area]
        side = first, stop - first
        plain(sending.send_keys)(matrices, matrices, "kv", None, 1, side, (HEAD, 0, 1))
        k, v = (x.tile(place, tile, 64) for (x, place), tile in own)
        rows = [(None, (x, (0,))) for x in (problem.q, problem.dout)]
        orders = brought(
            patch, row_tiles,
            lambda into: plain(sending.send_rows)(rows, into, entries, span, heads),
        )  # fmt: skip
        slots = [
            Slots([cut(x[:, head], at[0] + tile * block, block)
                   for ((x, at), head), tile in order], 2)
            for order in orders
        ]  # fmt: skip
        lines = problem.lse, problem.delta
        vectors = told(
            patch, block,
            lambda into: plain(sending.send_vectors)(
                lines, into, entries, span, heads, scale, build
            ),
        )  # fmt: skip
        cores = TensorCores()
        on_numpy(patch, key_gradients, cores)
        on_numpy(patch, one_gradient, cores)
        patch.setattr(backward_dkdv, "warpgroup", cores)
        held, given = keys_at_work(k, v, first, slots, vectors, problem.factors, build)
        plain(backward_dkdv.walk)(held, given, entries, span, EACH)
    assert not cores.asked, "somebody read sums that were not done"
    factors = 0.3, 1.0
    return [
        None if x is None else factor * tile_held(x)
        for x, factor in zip((held.dk, held.dv), factors, strict=True)
    ]


@pytest.mark.parametrize("of", ["dkdv", "dk", "dv"])
@settings(max_examples=40)
@asked
def test_every_key_of_every_piece_sums_over_the_rows_that_see_it(
    of, ring, band, block, join, own_first, softcap, seed
):
    with np.errstate(divide="ignore"):
        problem = Problem(ring, band, join, softcap, seed)
    work = worklist(problem.where, "keys", 64, block, CPU, own_first)
    table, entries = (x.flatten().tolist() for x in (work.tiles, work.entries))
    build, done = build_of(block, ahead=seed % 2 == 0, capped=softcap > 0, of=of), []
    for number in range(work.count):
        sums = dkdv_of(problem, table, entries, number, block, build)
        assert [x is not None for x in sums] == [of != "dv", of != "dk"]
        (first, stop), _ = visits.tile_of(table, number)
        piece = visits.piece_of(table, number)
        for key in range(first, min(stop, first + 64)):
            place = problem.place(piece, key)
            for got, exact in zip(sums, (problem.dk, problem.dv), strict=True):
                if got is not None:
                    np.testing.assert_allclose(got[key - first], exact[place], rtol=0, atol=1e-12)
            done.append(place)

    assert sorted(done) == sorted(problem.keys)


def dq_of(problem, entries, first, span, head, block, build):
    """dq of a tile of 64 rows of a head."""
    own, landed = ([(None, x) for x in area] for area in problem.areas)
    words, heads = None, (HEAD, 0, 1)
    with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
        orders = brought(
            patch, pipes,
            lambda into: plain(sending.send_visits)(
                own, landed, into, (entries, words), span, heads, plain(pipes.bring_abreast)
            ),
        )  # fmt: skip
        slots = [
            Slots([area.tile(place, tile, block) for (area, place), tile in order], 2)
            for order in orders
        ]
        cores = TensorCores()
        on_numpy(patch, row_gradients, cores)
        patch.setattr(backward_dq, "warpgroup", cores)
        rows = (cut(x[:, head], first, 64) for x in (problem.q, problem.dout))
        lines = problem.lse[:, head], problem.delta[:, head]
        held, given = rows_at_work(*rows, first, lines, slots, problem.factors, build)
        plain(backward_dq.walk)(held, given, entries, span)
    assert not cores.asked
    return 0.3 * tile_held(held.dq)


@settings(max_examples=40)
@asked
def test_every_row_sums_over_the_keys_of_all_pieces_to_its_dq(
    ring, band, block, join, ahead, softcap, seed
):
    with np.errstate(divide="ignore"):
        problem = Problem(ring, band, join, softcap, seed)
    work = worklist(problem.where, "rows", 64, block, CPU)
    table, entries = (x.flatten().tolist() for x in (work.tiles, work.entries))
    build, done = build_of(block, ahead=ahead, capped=softcap > 0), []
    for number in range(work.count):
        (first, stop), span = visits.tile_of(table, number)
        rows, head = slice(first, min(stop, first + 64)), number % EACH
        dq = dq_of(problem, entries, first, span, head, block, build)
        np.testing.assert_allclose(
            dq[: rows.stop - first], problem.dq[rows, head], rtol=0, atol=1e-12
        )
        done += range(first, rows.stop)

    assert sorted(done) == list(range(problem.rows))


def test_a_tile_of_no_tokens_brings_nothing_but_zeros():
    problem_area = Area(5, np.random.default_rng(0))
    matrices, found = [(None, problem_area)], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "order", lambda load, tile, *_: found.append((load, tile)))
        plain(sending.send_keys)(matrices, matrices, "k", None, 0, (0, 0), (HEAD, 0, 1))
    (((area, place), tile),) = found

    assert not area.tile(place, tile, 64).any()
