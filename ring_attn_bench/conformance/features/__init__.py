"""The lines of the coverage matrix, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from ring_attn_bench.conformance.feature import Feature
from ring_attn_bench.conformance.features.cache import CACHE
from ring_attn_bench.conformance.features.documents import DOCUMENTS
from ring_attn_bench.conformance.features.masks import MASKS
from ring_attn_bench.conformance.features.ring import RING
from ring_attn_bench.conformance.features.ring_documents import RING_DOCUMENTS
from ring_attn_bench.conformance.features.scores import SCORES
from ring_attn_bench.conformance.features.shapes import HEADS, NUMBERS
from ring_attn_bench.conformance.features.tensors import LENGTHS, STRIDES
from ring_attn_bench.errors import UnknownName

CHAPTERS = (MASKS, SCORES, HEADS, NUMBERS, LENGTHS, STRIDES, RING, DOCUMENTS, RING_DOCUMENTS, CACHE)
FEATURES = {feature.name: feature for chapter in CHAPTERS for feature in chapter.features}
"""Every feature by its name."""


def select(patterns: Sequence[str]) -> tuple[Feature, ...]:
    """The features whose names match one of the shell patterns; all, if there is none."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in FEATURES):
            raise UnknownName("feature", pattern, FEATURES)
    return tuple(
        feature
        for name, feature in FEATURES.items()
        if not patterns or any(fnmatch(name, pattern) for pattern in patterns)
    )
