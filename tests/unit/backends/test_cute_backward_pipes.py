"""The CuTe backward's barriers, played by threads (see `test_cute_pipes.py`)."""

from functools import partial

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.programs import Visit, nth_of_heads

from tests.played_kernels import Model, at_once, plain

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from tests.played_adding import PlayedAdding, shares, shown_at
from tests.played_backward import (
    PlayedBackward,
    key_gradients,
    of_keys,
    one_gradient,
    own_pipes,
    row_gradients,
    row_tiles,
)

counts = st.integers(0, 4)
FIRST_HEAD = 6


def visit_of(edges, whole):
    """All tiles in their order."""
    return Visit(None, None, None, (0, edges, whole, edges))


@pytest.mark.parametrize("of", ["dkdv", "dk", "dv"])
@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_row_tile_of_every_head_is_multiplied_by_all_and_nobody_waits_for_ever(
    of, groups, stages, edges, whole, each, seed
):
    module = key_gradients if of == "dkdv" else one_gradient
    model, ahead = Model(groups, stages, seed), stages > 1 and seed % 2 == 0
    visit, heads = visit_of(edges, whole), (FIRST_HEAD, each)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = PlayedBackward(monkeypatch, model, module, stages, ahead=ahead, of=of)

        def consume(part):
            plain(module.walk)(*run.begin(part), visit, each)

        def produce():
            plain(row_tiles.bring_rows)(("q", "dout"), model.pipes, heads, visit.where, 0)

        def tell():
            run.tell(0, 10**6, heads, visit.where, 0)

        at_once([*(partial(consume, part) for part in range(groups)), produce, tell])

    tiles = [nth_of_heads(i, each, visit.where) for i in range((edges + whole) * each)]
    tiles = [(FIRST_HEAD + head, tile) for head, tile in tiles]
    assert model.log == dict.fromkeys(range(groups), of_keys(("q", "dout"), 0, tiles, of))


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=counts, whole=counts,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_key_tile_is_multiplied_three_times_and_nobody_waits_for_ever(
    groups, stages, edges, whole, seed
):
    model, ahead = Model(groups, stages, seed), stages > 1 and seed % 2 == 0
    visit = visit_of(edges, whole)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = PlayedBackward(monkeypatch, model, row_gradients, stages, ahead=ahead)

        def consume(part):
            plain(row_gradients.walk)(*run.begin(part), visit)

        def produce():
            plain(own_pipes.bring_abreast)(("k", "v"), model.pipes, visit.where, 0)

        at_once([*(partial(consume, part) for part in range(groups)), produce])

    expected = []
    for i in range(edges + whole):
        expected += [("k", ("k", i)), ("v", ("v", i)), ("k columns", ("k", i))]
    assert model.log == dict.fromkeys(range(groups), expected)


@settings(phases=[Phase.generate], max_examples=30)
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), shown=st.integers(2, 3), edges=counts,
    whole=counts, each=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_row_tile_is_added_to_once_of_what_all_warpgroups_made_of_it(
    groups, stages, shown, edges, whole, each, seed
):
    model, visit, heads = Model(groups, stages, seed), visit_of(edges, whole), (FIRST_HEAD, each)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run = PlayedAdding(monkeypatch, model, stages, shown)

        def consume(part):
            plain(shares.walk)(*run.begin(part), visit, each)

        def produce():
            plain(row_tiles.bring_rows)(("q", "dout"), model.pipes, heads, visit.where, 0)

        def tell():
            run.tell(0, 10**6, heads, visit.where, 0)

        def add():
            run.add(heads, visit.where)

        at_once([*(partial(consume, part) for part in range(groups)), produce, tell, add])

    tiles = [nth_of_heads(i, each, visit.where) for i in range((edges + whole) * each)]
    tiles = [(FIRST_HEAD + head, tile) for head, tile in tiles]
    laid = [dict.fromkeys(range(groups), i) for i in range(len(tiles))]
    for log in model.log.values():
        assert shown_at(log) == (of_keys(("q", "dout"), 0, tiles), laid)
    expected = [(*tile, parts) for tile, parts in zip(tiles, laid, strict=True)]
    assert sorted(run.added, key=str) == sorted(expected, key=str)
