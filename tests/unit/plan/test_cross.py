"""Plans of queries that are others than the keys: each document's last one at its last key."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.layout import Layout, Queries
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Mask
from tests.unit.plan.plan_simulation import (
    BY_POSITION,
    EVERY,
    GATHERS,
    PLAIN,
    WINDOWS,
    computed,
    positions,
    sees,
)
from tests.unit.plan.test_documents import starts_of


def right(mask, queries, keys, rows, columns):
    """Which of so many rows see which of so many columns, document by document."""
    found = np.zeros((rows, columns), dtype=int)
    for (a, b), (c, d) in zip(pairwise(queries), pairwise(keys), strict=True):
        found[a:b, c:d] = sees(mask, np.arange(a, b) - b, np.arange(c, d) - d)
    return found


@st.composite
def layouts(draw, one_launch):
    striped = draw(st.booleans())
    names = ["striped"] if striped else ["contiguous", "zigzag"]
    ours, theirs = (PARTITIONS[draw(st.sampled_from(names))] for _ in "qk")
    ranks, side = draw(st.integers(1, 4)), st.none() | st.integers(0, 12)
    mask = Mask(draw(st.booleans()), draw(side), draw(side))
    rows, keys = (2 * draw(st.integers(1, 4)) for _ in "qk")
    documents = draw(starts_of(ranks * keys))
    cuts = st.integers(0, ranks * rows)
    queries = (0, *sorted(draw(cuts) for _ in documents[1:]))
    where = theirs, ranks, keys, mask.band, draw(st.integers(1, 3))
    grouping = (ranks - 1,) if ranks > 1 and (one_launch or draw(st.booleans())) else None
    layout = Layout(*where, grouping, one_launch, documents, Queries(ours, rows, queries))
    forms = [WINDOWS, EVERY, *([] if mask.band.high is not None else [PLAIN])]
    able = draw(st.sampled_from([GATHERS, BY_POSITION] if one_launch else forms))
    return mask, layout, able


def held(layout, rank):
    """Positions of a rank's queries, and of its keys."""
    theirs, ranks = layout.queries, layout.world_size
    return (
        positions(theirs.partition.spans(rank, ranks, theirs.tokens)),
        positions(layout.partition.spans(rank, ranks, layout.tokens)),
    )


@settings(deadline=None, max_examples=200)
@given(layouts(one_launch=False))
def test_every_allowed_pair_is_computed_once_and_nothing_else(asked):
    mask, layout, able = asked
    ranks = layout.world_size
    whole = ranks * layout.row_tokens, ranks * layout.tokens
    times = np.zeros(whole, dtype=int)
    for rank in range(ranks):
        one, (rows, own) = plan(layout, rank, able), held(layout, rank)
        for index, step in enumerate(one.steps):
            parts = [held(layout, f.owner)[1][f.tokens.slice] for f in step.fetches]
            landed = np.concatenate([*parts, []]).astype(int) if index else own
            for launch in step.launches:
                at = np.ix_(rows[launch.rows.slice], landed[launch.keys.slice])
                times[at] += computed(launch.block)
        left = set(range(layout.row_tokens)) - {
            i for x in one.launches for i in range(x.rows.start, x.rows.stop)
        }
        assert one.rows_start_at_zero or not left
    wanted = right(mask, layout.queries.starts, layout.documents, *whole)
    np.testing.assert_array_equal(times, wanted)


@settings(deadline=None, max_examples=200)
@given(layouts(one_launch=True))
def test_one_launch_visits_every_allowed_pair_once_from_both_sides(asked):
    mask, layout, able = asked
    ranks = layout.world_size
    whole = ranks * layout.row_tokens, ranks * layout.tokens
    wanted = right(mask, layout.queries.starts, layout.documents, *whole)
    for side in ("rows", "keys"):
        times = np.zeros(whole, dtype=int)
        for rank in range(ranks):
            one, (rows, own) = plan(layout, rank, able), held(layout, rank)
            step = one.steps[-1]
            parts = [held(layout, f.owner)[1][f.tokens.slice] for f in step.fetches]
            landed = np.concatenate([*parts, []]).astype(int)
            for line in getattr(step.gathered, side):
                for visit in line.visits:
                    of_rows, of_keys = (visit, line) if line.of_keys else (line, visit)
                    i = np.arange(of_rows.tokens.start, of_rows.tokens.stop)
                    j = np.arange(of_keys.tokens.start, of_keys.tokens.stop)
                    area = landed if of_keys.piece else own
                    allowed = np.array([[visit.band.allows(int(a - b)) for b in j] for a in i])
                    times[np.ix_(rows[i], area[j])] += allowed
        np.testing.assert_array_equal(times, wanted)


def test_queries_of_other_documents_or_dealt_by_other_steps_are_refused():
    zigzag, striped = PARTITIONS["zigzag"], PARTITIONS["striped"]
    with pytest.raises(InvalidArgument, match="of 1 documents and the keys of 2"):
        Layout(zigzag, 2, 4, Band(), documents=(0, 4, 8), queries=Queries(zigzag, 2, (0, 4)))
    with pytest.raises(InvalidArgument, match="both by stripes, or neither"):
        Layout(zigzag, 2, 4, Band(), documents=(0, 8), queries=Queries(striped, 2, (0, 4)))
