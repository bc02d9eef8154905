"""What a ring needs of a kernel besides the right numbers in one block."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import LOCAL, BlockCase, lengths
from ring_attn_bench.conformance.feature import Asks, Chapter, Feature
from ring_attn_bench.plan.positions import Span

_AFTER_A_LONGER = replace(
    LOCAL, title="rows after a longer block", heads=4,
    rows=(Span(90, 61),), keys=(Span(0, 151),),
)  # fmt: skip
_AFTER_A_SHORTER = replace(
    LOCAL, title="rows after a shorter block, token-major", heads=4, storage="token_major",
    rows=(Span(37, 61),), keys=(Span(0, 98),),
)  # fmt: skip


def repeated(case: BlockCase, tokens: int, title: str) -> BlockCase:
    """Many heads of that many tokens: blocks of a GPU that race for the same gradients."""
    return replace(lengths(case, tokens), title=f"{tokens} tokens, {title}")


_GROUPED = replace(LOCAL, heads=4, key_heads=2)

_SEVERAL_TILES = replace(
    _AFTER_A_LONGER, title="rows after a longer block, several tiles", key_heads=2,
    rows=(Span(500, 333),), keys=(Span(0, 833),),
)  # fmt: skip
_BLOCKS = (_AFTER_A_LONGER, _AFTER_A_SHORTER)

RING = Chapter(
    "Ring",
    (
        Feature(
            "blocks_add_up", "two blocks add up to a row",
            _BLOCKS, (_SEVERAL_TILES,), asks=Asks.TWO_BLOCKS,
        ),
        Feature(
            "in_place", "blocks added in place",
            _BLOCKS, (_SEVERAL_TILES,), asks=Asks.IN_PLACE,
        ),
        Feature(
            "deterministic", "deterministic",
            (
                repeated(replace(_GROUPED, batch=1), 130, "grouped heads"),
                repeated(replace(LOCAL, batch=1), 130, "as many key heads"),
            ),
            # enough blocks to race
            (
                repeated(_GROUPED, 2048, "grouped heads"),
                repeated(replace(LOCAL, heads=4, key_heads=4), 2048, "as many key heads"),
            ),
            asks=Asks.REPEATS,
        ),
    ),
)  # fmt: skip
