"""Attention over a cache of keys, as decoding calls it."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.caches import CachedCase
from ring_attn_bench.conformance.cases import CAUSAL
from ring_attn_bench.conformance.feature import Asks, Chapter, Feature
from ring_attn_bench.plan.problem import Mask

_ONE = CachedCase("cache, one query", (40, 129, 1))
_FEW = CachedCase("cache, five queries", (40, 129, 7), 5, CAUSAL)
_NEW = replace(_ONE, title="cache, one token appended", appended=1)
_NEW_FEW = replace(_FEW, title="cache, five tokens appended", appended=5)
_PAGED = replace(_ONE, title="cache of pages", page=32)
_LATENT = CachedCase(
    "cache of latent keys", (40, 129, 1), dim=576, dim_v=512, heads=8, key_heads=1, latent=True,
    dtype="float16",
)  # fmt: skip
_NARROWER = replace(_LATENT, dim=320, dim_v=256)
_ROTARY = replace(_NEW, title="cache, rotary", rotary=32)

CACHE = Chapter(
    "Cache",
    (
        Feature(
            "cache", "over a cache, one query",
            (
                _ONE,
                replace(_ONE, title="cache, an entry without tokens", lengths=(0, 160, 33)),
                replace(_ONE, title="cache, all of it", lengths=(160, 160), told=False),
                replace(_ONE, title="cache, head dims 128 and 64", dim=128, dim_v=64),
            ),
            (
                replace(_ONE, title="cache, long", lengths=(4000, 1, 8191), room=8192),
                replace(_ONE, title="cache, head dim 256", dim=256),
                replace(_ONE, title="cache, head dim 80", dim=80),
            ),
        ),
        Feature(
            "cache_queries", "over a cache, queries in a row",
            (
                _FEW,
                replace(_FEW, title="cache, five queries that see all", mask=Mask()),
                replace(_FEW, title="cache, more queries than tokens", lengths=(3, 129, 0)),
            ),
            (replace(_FEW, title="cache, 150 queries", queries=150, lengths=(150, 700), room=700),),
        ),
        Feature(
            "cache_append", "over a cache, appended to",
            (
                _NEW,
                _NEW_FEW,
                replace(_NEW, title="cache, one token appended to nothing", lengths=(0, 159, 40)),
                replace(_NEW_FEW, title="cache, more appended than asked", queries=2),
            ),
        ),
        Feature(
            "cache_paged", "over a cache of pages",
            (
                _PAGED,
                replace(_PAGED, title="cache of pages of 16", page=16),
                replace(_PAGED, title="cache of large pages", page=64, room=192),
                replace(_PAGED, title="cache of pages of 10", page=10),
                replace(_NEW_FEW, title="cache of pages, appended to", page=16),
            ),
            (
                replace(_PAGED, title="cache of many pages", page=16, lengths=(4000, 1, 8191),
                        room=8192),
                replace(_PAGED, title="cache of pages of 256", page=256, lengths=(4000, 1, 8191),
                        room=8192),
            ),
        ),
        Feature(
            "cache_rotary", "over a cache, rotary",
            (
                _ROTARY,
                replace(_ROTARY, title="cache, rotary by halves", interleaved=False),
                replace(_ROTARY, title="cache, rotary of whole heads", rotary=64),
                replace(_NEW_FEW, title="cache, rotary of five queries", rotary=32),
                replace(_NEW_FEW, title="cache, rotary of five queries at one place", rotary=32,
                        mask=Mask()),
                replace(_NEW_FEW, title="cache of pages, rotary", rotary=32, page=16,
                        interleaved=False),
            ),
        ),
        Feature(
            "cache_leftpad", "over a cache, left padding",
            (
                replace(_ONE, title="cache, left padding", skipped=(3, 100, 1)),
                replace(_NEW_FEW, title="cache, left padding and five tokens appended",
                        skipped=(3, 100, 0)),
            ),
        ),
        Feature(
            "cache_rows", "over some rows of a cache",
            (
                replace(_ONE, title="cache, rows by number", rows=(4, 0, 2)),
                replace(_NEW, title="cache, rows by number, appended to", rows=(4, 0, 2)),
            ),
        ),
        Feature(
            "cache_splits", "over a cache, by several programs",
            (
                replace(_ONE, title="cache, shared by three", splits=3),
                replace(_FEW, title="cache, five queries, shared by seven", splits=7),
                replace(_PAGED, title="cache of pages, shared by three", splits=3, page=16),
            ),
        ),
        Feature(
            "cache_window", "over a cache, window",
            (
                replace(_ONE, title="cache, window", mask=Mask(True, 20)),
                replace(_FEW, title="cache, window on both sides", mask=Mask(False, 9, 2)),
                replace(_FEW, title="cache, window of itself", mask=Mask(True, 0)),
            ),
        ),
        Feature(
            "cache_heads", "over a cache, grouped heads",
            (
                replace(_ONE, title="cache, eight heads on one", heads=8, key_heads=1),
                replace(_FEW, title="cache, as many heads", heads=3, key_heads=3),
                replace(_FEW, title="cache, twenty heads on one", heads=20, key_heads=1),
            ),
        ),
        Feature(
            "cache_latent", "over a cache of latent keys",
            (
                _LATENT,
                replace(_NARROWER, title="cache of latent keys, an entry without tokens",
                        lengths=(0, 160, 33)),
                replace(_NARROWER, title="cache of latent keys, five queries", queries=5,
                        mask=CAUSAL),
                replace(_LATENT, title="cache of latent keys, in pages", page=16),
            ),
            (
                replace(_LATENT, title="cache of latent keys, 128 heads", heads=128,
                        lengths=(4000, 1, 8191), room=8192),
                replace(_LATENT, title="cache of latent keys, in many pages", page=64, heads=16,
                        lengths=(4000, 1, 8191), room=8192),
            ),
            own_dtype=True,
        ),
        Feature(
            "cache_softcap", "over a cache, softcap",
            (replace(_FEW, title="cache, softcap", softcap=2.5),),
        ),
        Feature(
            "cache_alibi", "over a cache, ALiBi",
            (replace(_FEW, title="cache, ALiBi", alibi=True),),
        ),
        Feature(
            "cache_sink", "over a cache, sink",
            (
                replace(_ONE, title="cache, sink", sink=True, lengths=(0, 129, 1), splits=1),
                replace(_FEW, title="cache, sink, shared by three", sink=True, splits=3),
            ),
        ),
        Feature(
            "cache_deterministic", "over a cache, repeated",
            (replace(_NEW_FEW, title="cache, repeated", splits=3),),
            asks=Asks.REPEATS,
        ),
    ),
)  # fmt: skip
