"""The CuTe backward's barriers, played by threads (see `test_cute_pipes.py`)."""

from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.played_kernels import Model, at_once, fresh, plain

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute import pipes
from ring_attn_backends.cute.programs import nth_of_heads

key_gradients, row_gradients = fresh("key_gradients"), fresh("row_gradients")
backward_dkdv, backward_dq = fresh("backward_dkdv"), fresh("backward_dq")
own_pipes = fresh("pipes")


class Part:
    """A pipe's slots as a warpgroup multiplies them; kind: as its log names it."""

    def __init__(self, kind, pipe, part):
        self.kind, self.pipe, self.part = kind, pipe, part

    def __getitem__(self, place):
        return self.kind, self.pipe, place[3], self.part


def backward_played(monkeypatch, module, producer, stages, groups, tiles, parts, ahead, seed):
    """What each warpgroup multiplied, in order.

    tiles: edges, whole ones, and of how many heads, or None where there is one. parts: of pipes and
    a warpgroup's number what `Given` has of them.
    """
    edges, whole, each = tiles
    where, heads = (0, edges, whole, edges), [each] if each else []
    model = Model(groups, stages, seed)
    tiles_, others = model.pipes
    vectors = model.pipe(stages, 4 * groups, writers=32)

    def release(pipe, i, lane, there=True):
        if there:
            pipe.empty[i % pipe.stages].arrive(4)

    def multiply(mma, into, a, b, *, fresh):
        kind, pipe, slot, part = b
        model.read(pipe, slot, kind, part)

    def weigh(held, given, tile, vector, *, edge):
        model.pause()
        model.log[given.lane].append(("told", vectors.slots.tile[vector]))
        return [], []

    def order(load, tile, pipe, slot):
        pipe.full[slot].arrive(more=pipe.bytes)
        model.copy(pipe, (load, tile), slot)

    loops = SimpleNamespace(range=lambda *x, unroll: range(*x), range_constexpr=range, max=max)
    for name, stand_in in {
        "cutlass": loops, "release": release, "release_loaded": release,
        "multiply": multiply, "_weigh": weigh,
        "warpgroup": SimpleNamespace(wait_group=model.wait_group), "read": lambda _: [],
        "rounded": lambda *_: model.pause(), "_factors": lambda *_, **__: [],
        "_begin": lambda *_: model.pause(),
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, stand_in, raising=False)
    arch = SimpleNamespace(
        mbarrier_wait=lambda barrier, number: barrier.wait(number),
        mbarrier_arrive=lambda barrier: barrier.arrive(32),  # of a warp
    )
    for every in (pipes, own_pipes):
        monkeypatch.setattr(every, "arch", arch)
    monkeypatch.setattr(own_pipes, "cutlass", loops)
    monkeypatch.setattr(own_pipes, "cute", SimpleNamespace(size=len))
    monkeypatch.setattr(pipes, "order", order)
    monkeypatch.setattr(producer, "cutlass", loops)
    monkeypatch.setattr(producer, "load_at", lambda load, head: head, raising=False)

    def consume(part):
        model.flying.groups = []
        build = SimpleNamespace(config=SimpleNamespace(ahead=ahead), capped=False)
        given = SimpleNamespace(
            lane=part, build=build, scores_mma=None, sums_mma=None, k=None, v=None, q=None,
            dout=None, vectors=vectors,
        )  # fmt: skip
        vars(given).update(parts(tiles_, others, part))
        held = SimpleNamespace(**dict.fromkeys(("s", "dp", "p", "ds", "dk", "dv", "dq", "deltas")))
        plain(module.walk)(held, given, where, *heads)

    def produce():
        middle = [0, each] if each else []
        plain(producer._produce)((None, None), tiles_, others, *middle, where)

    def tell():
        for i in range((edges + whole) * each):
            plain(own_pipes.tell)(vectors, i, [[i]], 0)

    class Told:
        """A line of numbers in a slot, all of them those of tile i."""

        tile = vectors.slots.tile

        def __setitem__(self, place, value):
            self.tile[place[2]] = value

    vectors.slots = Told()
    works = [*(partial(consume, part) for part in range(groups)), produce]
    at_once([*works, tell] if each else works)
    return model.log


def of_keys(queries, douts, part):
    return {
        "queries": queries, "douts": douts,
        "q": Part("q", queries, part), "q_columns": Part("q columns", queries, part),
        "dout": Part("dout", douts, part), "dout_columns": Part("dout columns", douts, part),
    }  # fmt: skip


def of_rows(keys, values, part):
    return {
        "keys": keys, "values": values, "v": Part("v", values, part),
        "k": Part("k", keys, part), "k_columns": Part("k columns", keys, part),
    }  # fmt: skip


counts = st.integers(0, 4)


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_row_tile_of_every_head_is_multiplied_four_times_and_nobody_waits_for_ever(
    groups, stages, edges, whole, each, seed
):
    tiles, ahead = (edges, whole, each), stages > 1 and seed % 2 == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = backward_played(
            monkeypatch, key_gradients, backward_dkdv, stages, groups, tiles, of_keys, ahead, seed
        )  # fmt: skip

    expected = []
    for i in range((edges + whole) * each):
        tile = nth_of_heads(i, each, (0, edges, whole, edges))
        expected += [("q", tile), ("dout", tile), ("told", i)]
        expected += [("dout columns", tile), ("q columns", tile)]
    assert log == dict.fromkeys(range(groups), expected)


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_key_tile_is_multiplied_three_times_and_nobody_waits_for_ever(
    groups, stages, edges, whole, seed
):
    tiles, ahead = (edges, whole, None), stages > 1 and seed % 2 == 0
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = backward_played(
            monkeypatch, row_gradients, backward_dq, stages, groups, tiles, of_rows, ahead, seed
        )  # fmt: skip

    expected = []
    for i in range(edges + whole):
        expected += [("k", (None, i)), ("v", (None, i)), ("k columns", (None, i))]
    assert log == dict.fromkeys(range(groups), expected)
