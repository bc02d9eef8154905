"""Packed documents that are dealt to ranks: what a ring makes of a kernel's blocks or launch."""

from __future__ import annotations

from ring_attn_bench.conformance.cases import ALL, CAUSAL
from ring_attn_bench.conformance.feature import Chapter, Feature
from ring_attn_bench.conformance.on_ring import RingCase
from ring_attn_bench.plan.problem import Mask


def _as_many(*lengths: int) -> tuple[tuple[int, int], ...]:
    return tuple((length, length) for length in lengths)


_CROSSING = _as_many(30, 71, 1, 18)
"""120 tokens: of three ranks with 40 each the second document is on all."""
_ODD = _as_many(40, 17, 2, 68)
"""127: one fewer than two would share, and no multiple of three."""
_LONG = _as_many(300, 1, 129, 513, 77)
_MORE_KEYS = ((12, 47), (30, 36), (0, 9), (20, 28))
_MORE_QUERIES = ((47, 12), (30, 36), (9, 0), (28, 20))

RING_DOCUMENTS = Chapter(
    "Documents on a ring",
    (
        Feature(
            "ring_documents", "documents that cross ranks",
            (
                RingCase("causal documents on three ranks", _CROSSING, CAUSAL),
                RingCase("documents on three ranks, balanced, by steps", _CROSSING, ALL,
                         partition="balanced", schedule="steps"),
                RingCase("causal documents, head and tail of each", _CROSSING, CAUSAL,
                         partition="head_tail", heads=4),
            ),
            (
                RingCase("long causal documents, balanced", _LONG, CAUSAL, partition="balanced"),
                RingCase("long documents, zigzag, by steps", _LONG, ALL, partition="zigzag",
                         schedule="steps"),
                RingCase("long causal documents, striped", _LONG, CAUSAL, partition="striped"),
            ),
        ),
        Feature(
            "ring_documents_window", "documents on a ring, window",
            (RingCase("documents on three ranks, window", _CROSSING, Mask(True, 25)),),
            (RingCase("long documents, window, balanced", _LONG, Mask(True, 150),
                      partition="balanced"),),
        ),
        Feature(
            "ring_documents_uneven", "documents on a ring, uneven lengths",
            (RingCase("causal documents of 127 tokens on three ranks, zigzag", _ODD, CAUSAL,
                      partition="zigzag"),),
            (RingCase("long causal documents on four ranks, zigzag", _LONG, CAUSAL,
                      partition="zigzag", ranks=4),),
        ),
        Feature(
            "ring_cross", "cross attention on a ring",
            (
                RingCase("documents with more keys than queries, on two ranks", _MORE_KEYS, CAUSAL,
                         ranks=2),
                RingCase("causal documents with more queries than keys, on two ranks",
                         _MORE_QUERIES, CAUSAL, ranks=2),
            ),
            (RingCase("unlike documents on four ranks, balanced",
                      ((300, 412), (12, 129), (513, 400)), ALL, partition="balanced", ranks=4),),
        ),
    ),
)  # fmt: skip
