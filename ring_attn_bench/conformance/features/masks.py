"""Which keys a query sees: features of the mask."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import CAUSAL, FULL, LOCAL, BlockCase, lengths
from ring_attn_bench.conformance.feature import Chapter, Feature
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask

_OWN = (Span(0, 40), Span(200, 40))
_OTHER = (Span(40, 40), Span(160, 40))


def between(title: str, rows: Span, keys: Span, mask: Mask = CAUSAL) -> BlockCase:
    """A case of one stretch of queries and one of keys."""
    return BlockCase(title, (rows,), (keys,), mask)


def window(title: str, mask: Mask, tokens: int = 96) -> BlockCase:
    """A case of a window over a rank's own tokens."""
    return replace(lengths(LOCAL, tokens), title=title, mask=mask)


_FULL = Feature(
    "full", "non-causal",
    (FULL, replace(FULL, title="full, its own tokens", rows=FULL.keys)),
    (replace(lengths(FULL, 700), title="full, several tiles"),),
)  # fmt: skip

_CAUSAL = Feature(
    "causal", "causal",
    (
        LOCAL,
        replace(LOCAL, title="causal over a zigzag rank's own tokens", rows=_OWN, keys=_OWN),
        between("causal over stripes", Span(3, 70, 4), Span(2, 70, 4)),
    ),
    (replace(lengths(LOCAL, 700), title="causal, several tiles"),),
)  # fmt: skip

_OFFSET = Feature(
    "offset", "causal, q whole chunks after k",
    (
        between("causal, queries one chunk after their keys", Span(96, 96), Span(0, 96)),
        between("causal, queries three chunks after their keys", Span(288, 96), Span(0, 96)),
        between("causal, two chunks of queries after a chunk of keys", Span(96, 192), Span(0, 96)),
    ),
)  # fmt: skip

_BOTTOM_RIGHT = Feature(
    "causal_bottom_right", "causal, sq < sk, bottom right",
    (
        between("causal, fewer rows than keys", Span(50, 46), Span(0, 96)),
        between("causal, one chunk of rows and two of keys", Span(96, 96), Span(0, 192)),
        between("causal, the last row alone", Span(95, 1), Span(0, 96)),
    ),
    (between("causal, bottom right, several tiles", Span(333, 400), Span(0, 733)),),
)  # fmt: skip

_TOP_LEFT = Feature(
    "causal_top_left", "causal, sq != sk, top left",
    (
        between("causal from the first key on, more rows than keys", Span(0, 96), Span(0, 60)),
        between("causal from the first key on, more keys than rows", Span(0, 60), Span(0, 96)),
    ),
    (between("causal, top left, several tiles", Span(0, 700), Span(0, 401)),),
)  # fmt: skip

_EMPTY = Feature(
    "empty_rows", "rows that see no key",
    (
        between("causal, first rows see nothing", Span(0, 96), Span(30, 66)),
        between("causal over stripes, no row sees the key beside it", Span(2, 70, 4),
                Span(3, 70, 4)),
        between("causal, all keys are after all queries", Span(0, 40), Span(200, 70)),
    ),
    (between("causal, a whole tile of rows sees nothing", Span(0, 500), Span(300, 200)),),
)  # fmt: skip

_WINDOW = Feature(
    "window_causal", "window, causal",
    (
        window("window", Mask(True, 17)),
        replace(window("window, grouped heads", Mask(True, 17)), heads=4, key_heads=2,
                storage="token_major"),
        window("window of two keys, odd length", Mask(True, 1), tokens=83),
        window("window of the query's own key alone", Mask(True, 0)),
    ),
    (window("window, several tiles", Mask(True, 200), tokens=700),),
)  # fmt: skip

_TWO_SIDED = Feature(
    "window_both_sides", "window on both sides",
    (
        window("window on both sides", Mask(window_left=9, window_right=30)),
        window("window of the keys from the query's own on", Mask(window_left=0, window_right=5)),
    ),
    (window("window on both sides, several tiles", Mask(False, 150, 40), tokens=700),),
)  # fmt: skip

_ONE_SIDED = Feature(
    "window_one_side", "window, one side open",
    (
        window("window open to the right", Mask(window_left=11)),
        window("window open to the left", Mask(window_right=11)),
    ),
)  # fmt: skip

_CORNER = Feature(
    "window_corner", "window, corner of another chunk",
    (
        between("the corner that a window leaves of the chunk before", Span(96, 40), Span(56, 40),
                Mask(True, 40)),
        between("a window that ends in the chunk before", Span(96, 96), Span(0, 96),
                Mask(True, 120)),
        between("a window into the chunk after", Span(0, 40), Span(40, 60), Mask(False, 7, 50)),
        between("window, last rows see nothing and first keys are seen by none", Span(96, 96),
                Span(0, 96), Mask(True, 40)),
        between("a window over stripes", Span(3, 70, 4), Span(2, 70, 4), Mask(True, 50)),
    ),
)  # fmt: skip

_ZIGZAG = Feature(
    "zigzag", "causal, two zigzag ranks",
    (
        BlockCase("causal, a zigzag rank's queries and another's keys", _OWN, _OTHER, CAUSAL,
             heads=4),
        BlockCase("causal, keys of a later zigzag rank", _OTHER, _OWN, CAUSAL),
    ),
)  # fmt: skip

_ZIGZAG_WINDOW = Feature(
    "window_zigzag", "window, two zigzag ranks",
    (BlockCase("window by position, zigzag ranks", _OWN, _OTHER, Mask(True, 60)),),
)  # fmt: skip

MASKS = Chapter(
    "Mask",
    (_FULL, _CAUSAL, _OFFSET, _BOTTOM_RIGHT, _TOP_LEFT, _ZIGZAG, _EMPTY, _WINDOW, _TWO_SIDED,
     _ONE_SIDED, _CORNER, _ZIGZAG_WINDOW),
)  # fmt: skip
