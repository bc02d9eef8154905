"""Documents packed into one row of tokens, for kernels that take them so (`PackedBackend`)."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import CAUSAL
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.conformance.feature import Asks, Chapter, Feature
from ring_attn_bench.plan.problem import Mask

_EVEN = ((40, 40), (17, 17), (1, 1), (70, 70))
_WITH_EMPTY = ((33, 33), (0, 0), (61, 61), (0, 0))
_UNLIKE = ((40, 57), (12, 30), (0, 9), (33, 33))
_LONG = ((300, 300), (1, 1), (129, 129), (513, 513))

_FULL = PackedCase("documents", _EVEN)
_CAUSAL = PackedCase("causal documents", _EVEN, CAUSAL)

DOCUMENTS = Chapter(
    "Documents (varlen)",
    (
        Feature(
            "documents", "packed documents",
            (
                _FULL,
                PackedCase("documents, two of them empty", _WITH_EMPTY),
                PackedCase("a single document", ((77, 77),)),
                PackedCase("documents as views", _EVEN, views=True),
            ),
            (PackedCase("long documents", _LONG),),
        ),
        Feature(
            "documents_causal", "packed, causal",
            (
                _CAUSAL,
                PackedCase("causal documents, two of them empty", _WITH_EMPTY, CAUSAL),
                PackedCase("causal documents as views", _EVEN, CAUSAL, views=True),
            ),
            (PackedCase("long causal documents", _LONG, CAUSAL),),
        ),
        Feature(
            "documents_sq_ne_sk", "packed, sq != sk",
            (
                PackedCase("causal documents with more keys than queries", _UNLIKE, CAUSAL),
                PackedCase("documents with more keys than queries", _UNLIKE),
                PackedCase("documents with more queries than keys",
                           tuple((keys, rows) for rows, keys in _UNLIKE[:2])),
            ),
        ),
        Feature(
            "documents_empty_rows", "packed, rows that see no key",
            (
                PackedCase("causal documents with more queries than keys",
                           ((57, 40), (30, 12), (9, 0), (33, 33)), CAUSAL),
            ),
        ),
        Feature(
            "documents_window", "packed, window",
            (
                PackedCase("documents, window", _EVEN, Mask(True, 9)),
                PackedCase("documents, window on both sides", _EVEN, Mask(False, 9, 4)),
                PackedCase("unlike documents, window", _UNLIKE, Mask(True, 20)),
            ),
        ),
        Feature(
            "documents_gqa", "packed, grouped heads",
            (
                replace(_CAUSAL, title="causal documents, grouped heads", heads=6, key_heads=2),
                replace(_FULL, title="documents, one key head", heads=3, key_heads=1, dim=128),
            ),
        ),
        Feature(
            "documents_softcap", "packed, softcap",
            (replace(_CAUSAL, title="causal documents, softcap", softcap=2.5),),
        ),
        Feature(
            "documents_alibi", "packed, ALiBi",
            (
                replace(_CAUSAL, title="causal documents, alibi", alibi=True),
                PackedCase("unlike causal documents, alibi", _UNLIKE, CAUSAL, alibi=True),
            ),
        ),
        Feature(
            "documents_deterministic", "packed, deterministic",
            (replace(_CAUSAL, title="causal documents, repeated", heads=4, key_heads=2),),
            (PackedCase("long causal documents, repeated", _LONG, CAUSAL, heads=4, key_heads=2),),
            asks=Asks.REPEATS,
        ),
    ),
)  # fmt: skip
