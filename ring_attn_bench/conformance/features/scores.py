"""What becomes of a score before and after the softmax."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import CAUSAL, FULL, LOCAL, BlockCase, lengths
from ring_attn_bench.conformance.feature import Chapter, Feature
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask

_OWN = replace(FULL, title="full, its own tokens", rows=FULL.keys)
_STRIPES = BlockCase("causal over stripes", (Span(3, 70, 4),), (Span(2, 70, 4),), CAUSAL)
_AFTER = BlockCase("causal, queries two chunks after", (Span(192, 96),), (Span(0, 96),), CAUSAL)


def alibi(case: BlockCase) -> BlockCase:
    """The case with ALiBi's bias."""
    return replace(case, title=f"alibi, {case.title}", alibi=True)


def dropout(case: BlockCase, p: float) -> BlockCase:
    """The case with dropout."""
    return replace(case, title=f"dropout {p:g}, {case.title}", dropout_p=p)


SCORES = Chapter(
    "Score",
    (
        Feature(
            "softmax_scale", "another softmax scale",
            (
                replace(LOCAL, title="causal, another softmax scale", scale=0.31),
                replace(FULL, title="full, a smaller softmax scale", scale=0.05, heads=4),
            ),
        ),
        Feature(
            "large_scores", "large scores, of either sign",
            (
                replace(LOCAL, title="causal, scores about 25", level=25.0),
                replace(FULL, title="full, scores about -25", level=-25.0, heads=4),
                replace(LOCAL, title="causal, scores beyond exp's range", level=100.0),
            ),
            (
                replace(FULL, title="full, exp of the scores is 0", level=-110.0),
                replace(FULL, title="full, scores beyond exp's range, head dim 128", level=100.0,
                        dim=128),
            ),
        ),
        Feature(
            "softcap", "softcap",
            (
                replace(LOCAL, title="causal, softcap", softcap=2.5),
                replace(FULL, title="full, softcap", softcap=2.5, heads=4),
                replace(LOCAL, title="causal, softcap and another scale", softcap=7.0, scale=0.31),
            ),
        ),
        Feature(
            "alibi", "ALiBi, own tokens",
            (
                alibi(LOCAL),
                alibi(_OWN),
                alibi(replace(LOCAL, title="causal, grouped heads", heads=6, key_heads=2)),
                alibi(replace(LOCAL, title="causal, slopes of each batch entry", heads=4,
                              alibi_by_batch=True)),
            ),
        ),
        Feature(
            "alibi_stripes", "ALiBi over stripes",
            (
                alibi(_STRIPES),
                alibi(replace(_STRIPES, title="a rank's own stripe", keys=_STRIPES.rows)),
                alibi(replace(_STRIPES, title="stripes, slopes of each batch entry", heads=4,
                              key_heads=2, alibi_by_batch=True)),
            ),
        ),
        Feature(
            "alibi_window", "ALiBi, window or sq < sk",
            (
                alibi(replace(LOCAL, title="window", mask=Mask(True, 17))),
                alibi(BlockCase("causal, fewer rows than keys", (Span(50, 46),), (Span(0, 96),),
                           CAUSAL)),
                alibi(replace(_STRIPES, title="a window over stripes", mask=Mask(True, 50))),
            ),
        ),
        Feature(
            "alibi_offset", "ALiBi, keys of a chunk before",
            (
                alibi(_AFTER),
                alibi(replace(_AFTER, title="fewer rows than keys", rows=(Span(200, 40),))),
                alibi(BlockCase("the corner that a window leaves", (Span(96, 40),), (Span(56, 40),),
                           Mask(True, 40))),
            ),
        ),
        Feature(
            "alibi_both_sides", "ALiBi, keys of a chunk after",
            (
                alibi(replace(FULL, title="full, keys after their queries", rows=(Span(0, 96),),
                              keys=(Span(96, 96),))),
                alibi(FULL),
            ),
        ),
        Feature(
            "dropout", "dropout",
            (
                dropout(lengths(FULL, 64), 0.1),
                dropout(replace(lengths(LOCAL, 70), title="causal, grouped heads", heads=4,
                                key_heads=2), 0.25),
                dropout(replace(_AFTER, title="more keys than rows", rows=(Span(200, 40),)), 0.5),
            ),
            (
                dropout(replace(lengths(LOCAL, 400), title="causal, several tiles"), 0.1),
                dropout(replace(FULL, title="full, head dim 128", dim=128), 0.1),
            ),
        ),
    ),
)  # fmt: skip
