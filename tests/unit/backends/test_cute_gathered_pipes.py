"""The CuTe kernel for gathered keys, played by threads: pieces that are late, or never come."""

import math
import random
import time
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.programs import nth_of_heads
from ring_attn_backends.shared.worklist import ENTRY

from tests.played_kernels import CLOCK, Model, PlayedForward, at_once, fresh, multiplied, plain
from tests.warpgroup import NUMPY

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from tests.played_backward import (
    Line,
    PlayedBackward,
    key_gradients,
    of_keys,
    one_gradient,
    own_pipes,
    row_gradients,
    row_tiles,
)

consumer, producer = fresh("consumer"), fresh("pipes")
forward, sending, waiting = (fresh(f"gathered.{x}") for x in ("forward", "sending", "waiting"))
backward_dkdv, backward_dq = fresh("gathered.backward_dkdv"), fresh("gathered.backward_dq")
HEADS = 5, 1, 2
"""A key head, its group, and how many groups there are."""


class Words:
    """What copies set; who reads a word sees it as it is, and counts."""

    def __init__(self, pieces):
        self.now = [0] * (1 + pieces * HEADS[2])

    def place(self, piece):
        return 1 + (piece - 1) * HEADS[2] + HEADS[1]

    def set(self, number):
        with CLOCK:
            self.now[number] = 1

    def __getitem__(self, number):
        time.sleep(1e-5)  # so that a poll lets others run
        with CLOCK:
            return self.now[number]


def table_of(visits):
    """Entries as a worklist has them; each side begins at a token of its own."""
    numbers = []
    for i, (piece, edges, whole) in enumerate(visits):
        numbers += [1000 * i, 900, -1, 1, piece, 0, edges, whole, edges]
    assert len(numbers) == ENTRY * len(visits)
    return numbers


class Landing:
    """Pieces that come to the words by and by. fences: those behind which TMA was let at its
    memory, in order. lost_from: a piece that never lands, nor any later one."""

    def __init__(self, monkeypatch, pieces, seed, lost_from=None):
        self.pieces, self.lost_from, self.draw = pieces, lost_from, random.Random(seed)
        self.words, self.fences, waited = Words(pieces), [], []

        def await_piece(told, piece, head_group, head_groups):
            waited.append(piece)
            plain(waiting.await_piece)(told, piece, head_group, head_groups)

        arch = SimpleNamespace(fence_proxy=lambda kind: self.fences.append(waited[-1]))
        monkeypatch.setattr(waiting, "arch", arch)
        monkeypatch.setattr(waiting, "word_of", lambda told, number: told[number])
        monkeypatch.setattr(sending, "await_piece", await_piece)
        monkeypatch.setattr(
            sending, "loads_of", lambda area, head, side, pipes: ((area, side),) * len(pipes)
        )

    def check(self, area, piece):
        """Whether TMA may be asked for a tile of the piece."""
        assert area == ("landed" if piece else "own")
        if piece:
            words = self.words
            assert piece in self.fences, "TMA was asked before the fence"
            assert words[words.place(piece)] or words[0], "a piece was read before it had landed"

    def land(self):
        for piece in range(1, self.pieces + 1):
            time.sleep(self.draw.random() * 2e-3)
            if piece == self.lost_from:
                self.words.set(0)
                break
            self.words.set(self.words.place(piece))


def played(monkeypatch, groups, stages, visits, seed, *, lost_from=None):
    """What each warpgroup multiplied, and how the pieces landed."""
    model = Model(groups, stages, seed)
    landing = Landing(monkeypatch, max(piece for piece, *_ in visits), seed, lost_from)
    table = table_of(visits)
    run = PlayedForward(monkeypatch, model, consumer, producer)

    def order(load, tile, pipe, slot):
        landing.check(load[0], piece_at(visits, load))
        run.order(load, tile, pipe, slot)

    monkeypatch.setattr(producer, "order", order)
    for part in (sending, forward):
        monkeypatch.setattr(part, "cutlass", run.cutlass)
        monkeypatch.setattr(part, "Int32", int)
    monkeypatch.setattr(forward, "consumer", consumer)
    span = 0, len(visits)

    def consume(part):
        held, told = run.begin(part)
        plain(forward.walk)(held, told, table, span)

    def produce():
        plain(sending.send_visits)(
            "own", "landed", model.pipes, (table, landing.words), span, HEADS,
            plain(producer.bring_pairs),
        )  # fmt: skip

    at_once([*(partial(consume, part) for part in range(groups)), produce, landing.land])
    return model.log, landing


def piece_at(visits, load):
    """That of the visit which tiles are loaded for."""
    return visits[load[1][0] // 1000][0]


def backward_at_play(monkeypatch, run, module, other):
    """A kernel's own walk and the producers', over a played backward."""
    for part in (sending, module):
        monkeypatch.setattr(part, "cutlass", run.loops)
        monkeypatch.setattr(part, "Int32", int)
    waiting_for = SimpleNamespace(wait_group=run.model.wait_group)
    monkeypatch.setattr(module, "warpgroup", waiting_for, raising=False)
    if module is backward_dkdv:
        monkeypatch.setattr(module, "gradients_of", lambda _: other)
    else:
        monkeypatch.setattr(module, other.__name__.rpartition(".")[2], other)
    for name in ("bring_rows", "tell_rows"):
        monkeypatch.setattr(sending, name, plain(getattr(row_tiles, name)))
    monkeypatch.setattr(sending, "load_of", lambda atom, matrix, pipe: matrix)
    moved = SimpleNamespace(domain_offset=lambda by, matrix: (matrix, by[0]))
    monkeypatch.setattr(sending, "cute", moved)


def dkdv_played(
    monkeypatch, groups, stages, piece, visits, each, seed, *, lost_from=None, of="dkdv"
):
    """A program of keys of a piece, which rows visit; the same of it."""
    model, side, heads = Model(groups, stages, seed), (50, 100), (6, each)
    module = key_gradients if of == "dkdv" else one_gradient
    run = PlayedBackward(monkeypatch, model, module, stages, ahead=stages > 1, of=of)
    landing = Landing(monkeypatch, 3, seed, lost_from)
    table, span = table_of(visits), (0, len(visits))
    backward_at_play(monkeypatch, run, backward_dkdv, module)
    kinds = "k" if of == "dv" else "kv"
    keys = [model.pipe(1, 4 * groups) for _ in kinds]

    def order(load, tile, pipe, slot):
        landing.check(load[0], piece)
        run.order(load, tile, pipe, slot)

    monkeypatch.setattr(sending, "order", order)

    def consume(part):
        held, told = run.begin(part)
        module.await_keys((*keys, None)[:2])
        for kind, pipe in zip(kinds, keys, strict=True):
            model.read(pipe, 0, kind, part)
        plain(backward_dkdv.walk)(held, told, table, span, each)

    def produce():
        plain(sending.send_keys)("own", "landed", keys, landing.words, piece, side, HEADS)
        rows = (("q atom", "q"), ("dout atom", "dout"))
        plain(sending.send_rows)(rows, model.pipes, table, span, heads)

    def tell():
        lines = Line(), Line()
        plain(sending.send_vectors)(lines, run.vectors, table, span, heads, 1.0, run.build)

    consumers = [partial(consume, part) for part in range(groups)]
    at_once([*consumers, produce, tell, landing.land])
    expected = [(kind, (("landed" if piece else "own", side), 0)) for kind in kinds]
    for i, (_, edges, whole) in enumerate(visits):
        tiles = [
            nth_of_heads(number, each, (0, edges, whole, edges))
            for number in range(each * (edges + whole))
        ]
        tiles = [(heads[0] + head, tile) for head, tile in tiles]
        expected += of_keys((("q", 1000 * i), ("dout", 1000 * i)), 1000 * i, tiles, of)
    assert model.log == dict.fromkeys(range(groups), expected)
    return landing


def dq_played(monkeypatch, groups, stages, visits, seed, *, lost_from=None):
    """A program of rows."""
    model = Model(groups, stages, seed)
    run = PlayedBackward(monkeypatch, model, row_gradients, stages, ahead=stages > 1)
    landing = Landing(monkeypatch, 3, seed, lost_from)
    table, span = table_of(visits), (0, len(visits))
    backward_at_play(monkeypatch, run, backward_dq, row_gradients)

    def order(load, tile, pipe, slot):
        landing.check(load[0], piece_at(visits, load))
        run.order(load, tile, pipe, slot)

    monkeypatch.setattr(own_pipes, "order", order)

    def consume(part):
        plain(backward_dq.walk)(*run.begin(part), table, span)

    def produce():
        plain(sending.send_visits)(
            "own", "landed", model.pipes, (table, landing.words), span, HEADS,
            plain(own_pipes.bring_abreast),
        )  # fmt: skip

    at_once([*(partial(consume, part) for part in range(groups)), produce, landing.land])
    expected = []
    for tile in tiles_of(visits):
        expected += [("k", tile), ("v", tile), ("k columns", tile)]
    assert model.log == dict.fromkeys(range(groups), expected)
    return landing


runs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1)


def in_order(drawn):
    """Visits in the order of arrival, of which none is empty."""
    return [(piece, edges, whole or not edges) for piece, edges, whole in sorted(drawn)]


def tiles_of(visits):
    """All of them, each as what is loaded and its number."""
    return [
        ((("landed" if piece else "own"), (1000 * i, 900)), tile)
        for i, (piece, edges, whole) in enumerate(visits)
        for tile in range(edges + whole)
    ]


@settings(phases=[Phase.generate])  # a deadlock takes seconds, to shrink it minutes
@given(groups=st.integers(1, 3), stages=st.integers(1, 3), drawn=runs, seed=st.integers(0, 99))
def test_no_tile_is_read_before_it_landed_and_each_piece_is_waited_for_once(
    groups, stages, drawn, seed
):
    visits = in_order(drawn)
    with pytest.MonkeyPatch.context() as monkeypatch:
        log, landing = played(monkeypatch, groups, stages, visits, seed)

    assert log == dict.fromkeys(range(groups), multiplied(tiles_of(visits)))
    assert landing.fences == sorted({piece for piece, *_ in visits} - {0})


@settings(phases=[Phase.generate])
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), drawn=runs, seed=st.integers(0, 99),
    lost_from=st.integers(1, 3),
)  # fmt: skip
def test_a_kernel_that_gives_up_still_goes_through_all_tiles_and_writes_nan(
    groups, stages, drawn, seed, lost_from
):
    visits = [*in_order(drawn), (3, 1, 1)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        log, landing = played(monkeypatch, groups, stages, visits, seed, lost_from=lost_from)
        monkeypatch.setattr(waiting, "lanes", NUMPY)
        lost = waiting.lost(landing.words)

    assert log == dict.fromkeys(range(groups), multiplied(tiles_of(visits)))
    assert math.isnan(lost)


pieces = st.lists(st.tuples(st.just(0), st.integers(0, 2), st.integers(0, 2)), max_size=3)


@pytest.mark.parametrize("of", ["dkdv", "dk", "dv"])
@settings(phases=[Phase.generate], max_examples=25)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), piece=st.integers(0, 3), drawn=pieces,
    each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_keys_are_read_when_their_piece_has_landed_and_visited_by_rows_of_all_heads(
    of, groups, stages, piece, drawn, each, seed
):
    with pytest.MonkeyPatch.context() as monkeypatch:
        landing = dkdv_played(monkeypatch, groups, stages, piece, drawn, each, seed, of=of)

    assert landing.fences == [piece] * (piece > 0)


@settings(phases=[Phase.generate], max_examples=25)
@given(groups=st.integers(1, 3), stages=st.integers(1, 3), drawn=runs, seed=st.integers(0, 99))
def test_rows_visit_keys_of_each_piece_once_it_has_landed(groups, stages, drawn, seed):
    visits = in_order(drawn)
    with pytest.MonkeyPatch.context() as monkeypatch:
        landing = dq_played(monkeypatch, groups, stages, visits, seed)

    assert landing.fences == sorted({piece for piece, *_ in visits} - {0})


@settings(phases=[Phase.generate], max_examples=20)
@given(groups=st.integers(1, 3), stages=st.integers(1, 3), seed=st.integers(0, 99), data=st.data())
def test_a_backward_that_gives_up_goes_through_all_tiles_and_its_gradients_are_nan(
    groups, stages, seed, data
):
    lost_from = data.draw(st.integers(1, 3))
    with pytest.MonkeyPatch.context() as monkeypatch:
        if data.draw(st.booleans()):
            visits = [(0, 1, 1), (0, 0, 2)]
            landing = dkdv_played(
                monkeypatch, groups, stages, 3, visits, 2, seed, lost_from=lost_from
            )
        else:
            visits = [(0, 1, 1), (2, 1, 0), (3, 0, 2)]
            landing = dq_played(monkeypatch, groups, stages, visits, seed, lost_from=lost_from)
        monkeypatch.setattr(waiting, "lanes", NUMPY)

        assert math.isnan(waiting.lost(landing.words) + 0.125)


def test_where_all_landed_nothing_is_added_to_what_is_written(monkeypatch):
    words = Words(1)
    words.set(1)
    monkeypatch.setattr(waiting, "lanes", NUMPY)
    monkeypatch.setattr(waiting, "word_of", lambda told, number: told[number])

    assert waiting.lost(words) == 0.0
