"""The CuTe backward over gathered keys that adds to dq: its own lines on numpy, and played."""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.programs import nth_of_heads
from ring_attn_backends.cute.table import Config

from tests.played_kernels import Model, at_once, fresh, plain

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute.gathered import parts, visits

from tests.backward_on_numpy import LOOPS, WIDTH, brought, cut, key_gradients, row_tiles, told
from tests.played_adding import PlayedAdding, shown_at
from tests.played_adding import row_tiles as played_row_tiles
from tests.played_adding import shares as played_shares
from tests.played_backward import Line, of_keys
from tests.played_backward import key_gradients as played_gradients
from tests.shares_on_numpy import run_warpgroups, shares
from tests.unit.backends.test_cute_gathered_gradients import EACH, Problem
from tests.unit.backends.test_cute_gathered_pipes import (
    HEADS,
    Landing,
    backward_at_play,
    in_order,
    table_of,
)
from tests.unit.backends.test_cute_gathered_pipes import sending as played_sending
from tests.unit.backends.test_cute_gathered_walk import CPU, HEAD, moved
from tests.unit.plan.test_gathered import bands, rings

sending, adding = fresh("gathered.sending"), fresh("gathered.backward_adding")
CONFIGS = st.sampled_from(
    [Config(WIDTH, block, 2, groups, ahead=False, shown=2) for groups, block in ((1, 64), (2, 64))]
)


@contextmanager
def as_python():
    """Walks and producers are Python, and nobody waits."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sending, adding):
            patch.setattr(module, "cutlass", LOOPS)
            patch.setattr(module, "Int32", int)
        patch.setattr(sending, "cute", moved)
        patch.setattr(sending, "load_of", lambda atom, matrix, pipe: matrix)
        patch.setattr(sending, "await_piece", lambda *_: None)
        for name in ("add_rows", "bring_rows", "tell_rows"):
            patch.setattr(sending, name, plain(getattr(row_tiles, name)))
        for name, stand_in in {
            "key_gradients": key_gradients, "shares": shares, "Float32": float,
            "lost": lambda _: 0.0, "walk": plain(adding.walk),
        }.items():  # fmt: skip
            patch.setattr(adding, name, stand_in)
        yield


class Gradients:
    """Of a rank: dq, and dk and dv of its own and of landed keys, written by nobody yet."""

    def __init__(self, problem):
        self.problem, self.dq = problem, np.zeros(problem.q.shape)
        landed = len(problem.dk) - problem.rows
        self.keys = [np.full((n, WIDTH), np.nan) for n in (*[problem.rows] * 2, *[landed] * 2)]

    def run(self, work, number, build):
        """A program of key tiles: what its producers bring, and what it makes of that."""
        problem, config = self.problem, build.config
        table, entries = (x.flatten().tolist() for x in (work.tiles, work.entries))
        (first, stop), span = visits.tile_of(table, number)
        piece, heads, own = visits.piece_of(table, number), (0, EACH), []
        with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
            patch.setattr(sending, "order", lambda load, tile, *_: own.append((load, tile)))
            matrices = [(None, x) for x in problem.areas[piece > 0]]
            side = first, stop - first
            plain(sending.send_keys)(matrices, matrices, "kv", None, 1, side, (HEAD, 0, 1))
            rows = [(None, (x, (0,))) for x in (problem.q, problem.dout)]
            orders = brought(
                patch, row_tiles,
                lambda into: plain(sending.send_rows)(rows, into, entries, span, heads),
            )  # fmt: skip
            tiles = [
                [cut(x[:, head], at[0] + tile * config.block, config.block)
                 for ((x, at), head), tile in order] for order in orders
            ]  # fmt: skip
            lines = problem.lse, problem.delta
            vectors = told(
                patch, config.block,
                lambda into: plain(sending.send_vectors)(
                    lines, into, entries, span, heads, problem.factors[0], build
                ),
            )  # fmt: skip
            places = self._places(patch, entries, span, heads)

            def gather(pipes, product):
                plain(adding._gather)(
                    pipes, (None, None, product), self.keys, (first, stop), problem.rows, piece,
                    (entries, None), span, EACH, problem.factors, build,
                )  # fmt: skip

            own = [x.tile(place, tile, config.own) for (x, place), tile in own]
            add = partial(self._add, places, config.block)
            run_warpgroups(patch, config, tiles, own, vectors, add, gather)

    def _places(self, patch, entries, span, heads):
        """Which tiles of dq the third warp has TMA add to."""
        found = []
        patch.setattr(row_tiles, "add", lambda load, tile, pipe, slot: found.append((load, tile)))
        patch.setattr(row_tiles, "receive", lambda pipe, i: i)
        patch.setattr(row_tiles, "release_loaded", lambda *_: None)
        patch.setattr(row_tiles.arch, "cp_async_bulk_wait_group", lambda _: None, raising=False)
        plain(sending.take_rows)((None, (self.dq, (0,))), None, entries, span, heads)
        return found

    def _add(self, places, block, i, tile):
        ((dq, at), head), number = places[i]
        first = at[0] + number * block
        into = dq[first : first + block, head]
        into += tile[: len(into)]


@settings(phases=[Phase.generate], max_examples=20)
@given(
    ring=rings(), band=bands, join=st.booleans(), own_first=st.booleans(), config=CONFIGS,
    softcap=st.sampled_from([0.0, 2.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_both_parts_add_up_to_all_gradients_and_the_second_has_own_keys_alone(
    ring, band, join, own_first, config, softcap, seed
):
    with np.errstate(divide="ignore"):
        problem = Problem(ring, band, join, softcap, seed)
    build = SimpleNamespace(config=config, capped=softcap > 0, has_dk=True, has_dv=True)
    made = Gradients(problem)
    both = parts.parts(problem.where, config.own, config.block, CPU, own_first)
    with as_python():
        for work in both:
            for number in range(work.count):
                made.run(work, number, build)

    assert not both[1].tiles[:, parts.PIECE].any()
    own_k, own_v, landed_k, landed_v = made.keys
    seen = sorted(problem.keys)
    for found, exact in (
        (np.concatenate([own_k, landed_k])[seen], problem.dk[seen]),
        (np.concatenate([own_v, landed_v])[seen], problem.dv[seen]), (made.dq, problem.dq),
    ):  # fmt: skip
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


pieces = st.lists(st.tuples(st.just(0), st.integers(0, 2), st.integers(0, 2)), max_size=3)


@settings(phases=[Phase.generate], max_examples=25)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), piece=st.integers(0, 3), drawn=pieces,
    each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_rows_of_all_visits_are_added_to_once_and_keys_are_read_when_they_have_landed(
    groups, stages, piece, drawn, each, seed
):
    of_rows, model, heads = in_order(drawn), Model(groups, stages, seed), (6, each)
    table, span = table_of(of_rows), (0, len(of_rows))
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = PlayedAdding(monkeypatch, model, stages, 2)
        landing = Landing(monkeypatch, 3, seed)
        backward_at_play(monkeypatch, run, adding, played_gradients)
        monkeypatch.setattr(adding, "shares", played_shares)
        monkeypatch.setattr(played_sending, "add_rows", plain(played_row_tiles.add_rows))
        keys = [model.pipe(1, 4 * groups) for _ in "kv"]

        def order(load, tile, pipe, slot):
            landing.check(load[0], piece)
            run.order(load, tile, pipe, slot)

        monkeypatch.setattr(played_sending, "order", order)

        def consume(part):
            held, told, shared = run.begin(part)
            played_gradients.await_keys(keys)
            for kind, pipe in zip("kv", keys, strict=True):
                model.read(pipe, 0, kind, part)
            plain(adding.walk)(held, told, shared, table, span, each)

        def produce():
            plain(played_sending.send_keys)(
                "own", "landed", keys, landing.words, piece, (50, 100), HEADS
            )
            rows = (("q atom", "q"), ("dout atom", "dout"))
            plain(played_sending.send_rows)(rows, model.pipes, table, span, heads)

        def tell():
            lines = Line(), Line()
            plain(played_sending.send_vectors)(
                lines, run.vectors, table, span, heads, 1.0, run.build
            )

        def take():
            plain(played_sending.take_rows)(("dq atom", "dq"), run.staged, table, span, heads)
            assert all(asked.is_added for asked in run.of_tma)

        consumers = [partial(consume, part) for part in range(groups)]
        at_once([*consumers, produce, tell, take, landing.land])

    expected = [(kind, (("landed" if piece else "own", (50, 100)), 0)) for kind in "kv"]
    places = []
    for i, (_, edges, whole) in enumerate(of_rows):
        count = each * (edges + whole)
        tiles = [nth_of_heads(n, each, (0, edges, whole, edges)) for n in range(count)]
        tiles = [(heads[0] + head, tile) for head, tile in tiles]
        expected += of_keys((("q", 1000 * i), ("dout", 1000 * i)), 1000 * i, tiles)
        places += [((("dq", 1000 * i), head), tile) for head, tile in tiles]
    laid = [dict.fromkeys(range(groups), i) for i in range(len(places))]
    assert landing.fences == [piece] * (piece > 0)
    for log in model.log.values():
        assert shown_at(log) == (expected, laid)
    added = [(*place, made) for place, made in zip(places, laid, strict=True)]
    assert sorted(run.added, key=str) == sorted(added, key=str)
