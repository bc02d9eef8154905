"""The CuTe kernel for gathered keys, played by threads: pieces that are late, or never come."""

import math
import random
import time
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.shared.worklist import ENTRY

from tests.played_kernels import CLOCK, Model, PlayedForward, at_once, fresh, multiplied, plain
from tests.warpgroup import NUMPY

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

consumer, producer = fresh("consumer"), fresh("pipes")
forward, sending, waiting = (fresh(f"gathered.{x}") for x in ("forward", "sending", "waiting"))
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
        numbers += [1000 * i, 7, -1, 1, piece, 0, edges, whole, edges]
    assert len(numbers) == ENTRY * len(visits)
    return numbers


def played(monkeypatch, groups, stages, visits, seed, *, lost_from=None):
    """What each warpgroup multiplied; the pieces behind which TMA was let at its memory, in order;
    and what the words are in the end. lost_from: a piece that never lands, nor any later one."""
    model, draw = Model(groups, stages, seed), random.Random(seed)
    pieces = max(piece for piece, *_ in visits)
    words, fences, waited = Words(pieces), [], []
    table = table_of(visits)
    piece_at = {(1000 * i, 7): piece for i, (piece, *_) in enumerate(visits)}
    run = PlayedForward(monkeypatch, model, consumer, producer)

    def order(load, tile, pipe, slot):
        area, side = load
        piece = piece_at[side]
        assert area == ("landed" if piece else "own")
        if piece:
            assert piece in fences, "TMA was asked before the fence"
            assert words[words.place(piece)] or words[0], "a piece was read before it had landed"
        run.order(load, tile, pipe, slot)

    def await_piece(told, piece, head_group, head_groups):
        waited.append(piece)
        plain(waiting.await_piece)(told, piece, head_group, head_groups)

    arch = SimpleNamespace(fence_proxy=lambda kind: fences.append(waited[-1]))
    monkeypatch.setattr(producer, "order", order)
    monkeypatch.setattr(waiting, "arch", arch)
    monkeypatch.setattr(waiting, "word_of", lambda told, number: told[number])
    monkeypatch.setattr(sending, "await_piece", await_piece)
    monkeypatch.setattr(sending, "bring_pairs", plain(producer.bring_pairs))
    monkeypatch.setattr(sending, "loads_of", lambda area, head, side, _: ((area, side),) * 2)
    for part in (sending, forward):
        monkeypatch.setattr(part, "cutlass", run.cutlass)
        monkeypatch.setattr(part, "Int32", int)
    monkeypatch.setattr(forward, "consumer", consumer)
    span = 0, len(visits)

    def consume(part):
        held, told = run.begin(part)
        plain(forward.walk)(held, told, table, span)

    def produce():
        plain(sending.send_visits)("own", "landed", model.pipes, (table, words), span, HEADS)

    def land():
        for piece in range(1, pieces + 1):
            time.sleep(draw.random() * 2e-3)
            if piece == lost_from:
                words.set(0)
                break
            words.set(words.place(piece))

    at_once([*(partial(consume, part) for part in range(groups)), produce, land])
    return model.log, fences, words


runs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1)


def in_order(drawn):
    """Visits in the order of arrival, of which none is empty."""
    return [(piece, edges, whole or not edges) for piece, edges, whole in sorted(drawn)]


def expected(visits):
    tiles = [
        ((("landed" if piece else "own"), (1000 * i, 7)), tile)
        for i, (piece, edges, whole) in enumerate(visits)
        for tile in range(edges + whole)
    ]
    return multiplied(tiles)


@settings(phases=[Phase.generate])  # a deadlock takes seconds, to shrink it minutes
@given(groups=st.integers(1, 3), stages=st.integers(1, 3), drawn=runs, seed=st.integers(0, 99))
def test_no_tile_is_read_before_it_landed_and_each_piece_is_waited_for_once(
    groups, stages, drawn, seed
):
    visits = in_order(drawn)
    with pytest.MonkeyPatch.context() as monkeypatch:
        log, fences, _ = played(monkeypatch, groups, stages, visits, seed)

    assert log == dict.fromkeys(range(groups), expected(visits))
    assert fences == sorted({piece for piece, *_ in visits} - {0})


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
        log, _, words = played(monkeypatch, groups, stages, visits, seed, lost_from=lost_from)
        monkeypatch.setattr(waiting, "lanes", NUMPY)
        lost = waiting.lost(words)

    assert log == dict.fromkeys(range(groups), expected(visits))
    assert math.isnan(lost)


def test_where_all_landed_nothing_is_added_to_what_is_written(monkeypatch):
    words = Words(1)
    words.set(1)
    monkeypatch.setattr(waiting, "lanes", NUMPY)
    monkeypatch.setattr(waiting, "word_of", lambda told, number: told[number])

    assert waiting.lost(words) == 0.0
