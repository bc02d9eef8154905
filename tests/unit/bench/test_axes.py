"""What a suite's grid lists is what its cases and contestants differ in, axis by axis."""

from __future__ import annotations

import pytest

from ring_attn_bench.bench.cache_axes import CacheAxes
from ring_attn_bench.bench.grid import LENGTHS, Grid
from ring_attn_bench.bench.suite import Suite

BASE = {
    "backends": ["reference"], "seqlen_per_gpu": [64], "heads": ["8:4"], "head_dim": [64],
    "dtype": ["float32"],
}  # fmt: skip
OTHERS = {
    "backends": "aten", "partitions": "striped", "batch": 2, "heads": "8:2", "head_dim": 32,
    "dtype": "float16", "causal": False, "window": (16, 0), "softcap": 5.0, "deterministic": True,
    "transport": "all_gather", "slots": 1, "grouping": (3,), "gradients": "input",
    "handshake": True, "schedule": "gather", "landing_tokens": 512, "keep_keys": True,
    "queries": 2, "page": 16, "append": True, "rotary": "pairs", "leftpad": 3, "splits": 4,
    "head_dim_v": 32, "latent": True, "documents": "histogram:1",
}  # fmt: skip
"""By axis, a value that `BASE` has not."""
FORWARD = {"directions": ["forward"]}
OVER_A_CACHE = {"queries": [1], **FORWARD}
NEEDS = {
    "transport": {"schedule": ["gather"]}, "queries": FORWARD,
    **dict.fromkeys(CacheAxes.model_fields.keys() - {"queries"}, OVER_A_CACHE),
    "rotary": {**OVER_A_CACHE, "append": [True]}, "latent": {**OVER_A_CACHE, "head_dim_v": [32]},
}  # fmt: skip
"""What else a grid must say for the other value."""


def entries(**axes):
    suite = Suite(name="axes", description="", grid=[{**BASE, **axes}])
    return {(e.case.name, e.contestant.name): e for e in suite.entries(4, "real", ())}


def test_every_axis_has_another_value_here():
    assert OTHERS.keys() == Grid.model_fields.keys() - {"directions", *LENGTHS}


@pytest.mark.parametrize("axis", OTHERS)
def test_another_value_of_an_axis_is_another_case_or_contestant(axis):
    needed = NEEDS.get(axis, {})
    first, other = entries(**needed), entries(**needed, **{axis: [OTHERS[axis]]})
    assert len(first) == len(other) == 1
    assert first.keys() != other.keys()
    ((before,), (after,)) = first.values(), other.values()
    assert (before.case, before.contestant) != (after.case, after.contestant)
