"""The blocks that are asked of the kernels in Triton's interpreter, and of a GPU in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from ring_attn_bench.plan.positions import Band, Span
from tests.triton_interpreted.checking import CAUSAL, Case


def in_dtypes(cases: Mapping[str, Case], float32: str) -> list[Any]:
    """Each case in float16, the named ones in float32, which takes twice as long; --full: all.

    float32: names, a line each. What the dtype changes is products and stores, not what is masked.
    """
    named = {name.strip() for name in float32.strip().splitlines()}
    assert named <= cases.keys(), named - cases.keys()
    return [
        pytest.param(
            cases[name], dtype, id=f"{name}-{dtype}",
            marks=[pytest.mark.full] if dtype is torch.float32 and name not in named else [],
        )
        for name in cases for dtype in (torch.float16, torch.float32)
    ]  # fmt: skip


INDICES = {
    "full": Case(rows=260, keys=260, heads=1, groups=1),
    "causal": Case(rows=260, keys=260, heads=1, groups=1, band=CAUSAL),
    "causal-one-short-tile": Case(rows=7, keys=7, band=CAUSAL),
    "full-one-row": Case(rows=1, keys=201),
    "full-one-key": Case(rows=201, keys=1),
    "full-more-keys-gqa": Case(rows=70, keys=257, heads=4, groups=2),
    "full-more-rows-mqa": Case(rows=257, keys=70, heads=3, groups=1),
    "causal-gqa-d128": Case(
        rows=150, keys=150, heads=2, groups=1, batch=2, head_dim=128, band=CAUSAL
    ),
    "window-left": Case(rows=300, keys=300, heads=1, groups=1, band=Band(0, 100)),
    "window-both-gqa": Case(rows=140, keys=200, heads=2, groups=1, band=Band(-90, 40)),
    "window-open-right": Case(rows=140, keys=140, band=Band(high=17)),
    "window-beside-the-diagonal": Case(rows=160, keys=150, band=Band(30, 190)),
    "band-of-one-key": Case(rows=100, keys=100, band=Band(-3, -3)),
    "rows-without-keys": Case(rows=150, keys=50, band=Band(20, 60)),
    "d16": Case(head_dim=16, band=CAUSAL),
    "d59-dv40": Case(head_dim=59, head_dim_v=40),
    "d40-dv72": Case(rows=70, head_dim=40, head_dim_v=72, band=Band(-50, 50)),
    "d96": Case(head_dim=96, band=CAUSAL),
    "d192-dv128": Case(rows=70, keys=70, head_dim=192, head_dim_v=128, band=CAUSAL),
    "d256": Case(rows=70, keys=70, head_dim=256, band=CAUSAL),
    "softcap": Case(softcap=2.0, band=CAUSAL),
    "softcap-window-gqa": Case(
        heads=2, groups=1, softcap=30.0, softmax_scale=2.0, band=Band(-10, 70)
    ),
    "negative-scale": Case(softmax_scale=-0.3),
    "zero-scale": Case(softmax_scale=0.0, band=CAUSAL),
}
"""Masks that are a band of indices."""

ZIGZAG = (Span(0, 140), Span(980, 140))  # a rank's own tokens: whole tiles in both chunks
FETCHED = (Span(140, 70), Span(900, 80))
DESCENDING = (Span(900, 80), Span(140, 70))
MANY = (Span(0, 20), Span(200, 30), Span(90, 25))
MORE = (Span(150, 20), Span(40, 33), Span(0, 10), Span(199, 3), Span(230, 17))

POSITIONS = {
    "a zigzag rank's own tokens": Case(ZIGZAG, ZIGZAG, band=CAUSAL, heads=1, groups=1),
    "and what it fetched": Case(ZIGZAG, FETCHED, band=CAUSAL, heads=2, groups=1),
    "in descending order": Case(ZIGZAG, DESCENDING, band=CAUSAL),
    "rows in descending order": Case(DESCENDING, FETCHED, band=CAUSAL),
    "window": Case(ZIGZAG, FETCHED, band=Band(0, 100)),
    "window on both sides": Case(FETCHED, ZIGZAG, band=Band(-60, 130)),
    "rows of one chunk": Case((Span(500, 90),), (Span(40, 70), Span(520, 60)), band=CAUSAL),
    "keys of one chunk": Case((Span(40, 70), Span(520, 60)), (Span(500, 90),), band=CAUSAL),
    "one row before its key": Case((Span(3, 1),), (Span(0, 3), Span(7, 2)), band=CAUSAL),
    "nothing is seen": Case((Span(3, 9), Span(20, 9)), (Span(99, 5), Span(200, 5)), band=CAUSAL),
    "strides": Case((Span(3, 50, 4), Span(403, 20, 4)), (Span(1, 60, 4), Span(302, 33, 4)),
                    band=Band(-9, 200)),
    "many chunks": Case(MANY, MORE, band=CAUSAL),
    "many chunks, window": Case(MORE, MANY, band=Band(-30, 40)),
    "softcap": Case(ZIGZAG[:1] + FETCHED[1:], FETCHED, band=CAUSAL, softcap=2.0),
    "ALiBi": Case(130, 130, band=CAUSAL, alibi=True),
    "ALiBi of every batch entry, grouped heads": Case(100, 140, batch=2, heads=4, alibi=True),
    "ALiBi, rows after their keys": Case((Span(700, 90),), 140, band=Band(high=690), alibi=True),
    "ALiBi, zigzag": Case(ZIGZAG, ZIGZAG, band=CAUSAL, heads=1, groups=1, alibi=True),
    "ALiBi, nothing masked": Case(FETCHED, ZIGZAG, alibi=True, softcap=3.0),
    "ALiBi, stripes": Case((Span(3, 90, 4),), (Span(1, 80, 4),), band=CAUSAL, alibi=True),
    "ALiBi, many chunks": Case(MANY, MORE, alibi=True),
    "ALiBi, far away": Case((Span(7 * 10**8, 70),), (Span(7 * 10**8 - 90, 100),), alibi=True),
    "ALiBi, float32's integers end": Case((Span(2**25 + 1, 70),), (Span(2**25 - 30, 90),),
                                          alibi=True, band=CAUSAL),
}  # fmt: skip
"""Tokens by position, and ALiBi."""

SHORT_ZIGZAG = (Span(0, 70), Span(490, 70))
SHORT_FETCHED = (Span(70, 40), Span(450, 40))

DROPPED = {
    "full": Case(100, 140, dropout_p=0.2),
    "causal, grouped heads": Case(140, 140, batch=2, heads=4, dropout_p=0.1, band=CAUSAL),
    "window": Case(140, 140, dropout_p=0.4, band=Band(-20, 50), head_dim=40, head_dim_v=59),
    "zigzag": Case(SHORT_ZIGZAG, SHORT_FETCHED, dropout_p=0.17, band=CAUSAL),
    "nearly all dropped": Case(60, 200, dropout_p=0.98),
    "softcap and ALiBi": Case(
        SHORT_ZIGZAG, SHORT_ZIGZAG, dropout_p=0.3, softcap=2.0, alibi=True, band=CAUSAL
    ),
    "rows without keys": Case(150, 50, dropout_p=0.2, band=Band(20, 60)),
}

GRID_DIMS = (16, 32, 40, 59, 64, 96, 111, 128, 160, 192, 224, 256)


def grid(head_dim: int) -> Iterator[Case]:
    """A tenth of all combinations, in which every pair of choices meets."""
    bands = (Band(), CAUSAL, Band(-30, 80), Band(25, None), Band(None, -20))
    shapes = ((113, 203), (203, 113), (256, 256))
    for index, band in product(range(2), bands):
        place = index + bands.index(band)
        (rows, keys), groups, softcap = shapes[place % 3], 1 + place % 2, (0.0, 15.0)[index]
        yield Case(rows, keys, 1, 2, groups, head_dim, max(16, head_dim - 19), band, softcap)


ANY_DIMS = st.tuples(st.integers(1, 70), st.integers(1, 70))


@st.composite
def bands_of_indices(draw, dims=ANY_DIMS):
    """Blocks of one chunk; dims: of q and of v."""
    rows, keys = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    low = draw(st.none() | st.integers(-keys - 5, rows + 5))
    high = draw(st.none() | st.integers(-keys - 5, rows + 5))
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    groups = draw(st.sampled_from((1, 2)))
    head_dim, head_dim_v = draw(dims)
    return Case(
        rows=rows,
        keys=keys,
        groups=groups,
        heads=groups * draw(st.integers(1, 2)),
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        band=Band(low, high),
        softcap=draw(st.sampled_from((0.0, 5.0))),
    )


def spans(most):
    """Up to four chunks of one step, in any order, without overlap."""

    @st.composite
    def draw_spans(draw, step):
        gaps = draw(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 60)), max_size=most - 1))
        at, found = draw(st.integers(0, 3)), []
        for gap, length in [(0, draw(st.integers(1, 60))), *gaps]:
            found.append(Span(at + gap, length, step))
            at = found[-1].last + step
        return tuple(draw(st.permutations(found)))

    return draw_spans


@st.composite
def bands_of_positions(draw, head_dims=(16, 59)):
    """Blocks of up to four chunks, with every feature."""
    step = draw(st.sampled_from((1, 1, 3)))
    low, high = (draw(st.none() | st.integers(-200, 300)) for _ in range(2))
    if low is not None and high is not None:
        low, high = min(low, high), max(low, high)
    return Case(
        draw(spans(3)(step)),
        draw(spans(4)(step)),
        heads=2,
        groups=draw(st.integers(1, 2)),
        head_dim=draw(st.sampled_from(head_dims)),
        band=Band(low, high),
        softcap=draw(st.sampled_from((0.0, 5.0))),
        alibi=draw(st.booleans()),
        dropout_p=draw(st.sampled_from((0.0, 0.3))),
    )
