"""Heads, head dims and dtypes."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import FULL, LOCAL
from ring_attn_bench.conformance.feature import Chapter, Feature
from ring_attn_bench.plan.problem import DTYPES, DtypeName

HEAD_DIMS = (32, 40, 64, 80, 96, 128, 160, 192, 256)
_GROUPED = replace(FULL, heads=4, key_heads=2)


def head_dims(name: str, title: str, dim: int, dim_v: int) -> Feature:
    """A feature of these two head dims."""
    suffix = f"head dim {dim}" + ("" if dim == dim_v else f", of v {dim_v}")
    return Feature(
        name, title,
        (
            replace(LOCAL, title=f"causal, {suffix}", dim=dim, dim_v=dim_v, batch=1),
            replace(FULL, title=f"full, {suffix}", dim=dim, dim_v=dim_v, heads=1, key_heads=1),
        ),
    )  # fmt: skip


def in_dtype(dtype: DtypeName) -> Feature:
    """A feature of this dtype."""
    return Feature(
        dtype, dtype,
        (replace(LOCAL, dtype=dtype), replace(_GROUPED, dtype=dtype)),
        own_dtype=True,
    )  # fmt: skip


HEADS = Chapter(
    "Heads",
    (
        Feature(
            "gqa", "grouped heads (GQA)",
            (
                replace(LOCAL, title="causal, grouped heads", heads=6, key_heads=2),
                replace(_GROUPED, title="full, grouped heads"),
                replace(LOCAL, title="causal, groups of three, head dim 128", heads=6, key_heads=2,
                        dim=128, batch=1),
            ),
        ),
        Feature(
            "mqa", "one key head (MQA)",
            (
                replace(LOCAL, title="causal, one key head", heads=3, key_heads=1, batch=1),
                replace(FULL, title="full, one key head", heads=5, key_heads=1),
            ),
        ),
        *(head_dims(f"head_dim_{dim}", f"head dim {dim}", dim, dim) for dim in HEAD_DIMS),
        head_dims("head_dim_v_smaller", "head dim 128, of v 64", 128, 64),
        head_dims("head_dim_v_larger", "head dim 64, of v 128", 64, 128),
        head_dims("head_dim_192_128", "head dim 192, of v 128", 192, 128),
    ),
)  # fmt: skip

NUMBERS = Chapter("Dtype", tuple(in_dtype(dtype) for dtype in DTYPES))
