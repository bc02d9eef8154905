"""Batches of packed documents whose lengths are drawn from a histogram of published ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ring_attn_bench.bench.document_lengths import drawn


def batches(tokens: int, count: int, seed: int = 0) -> Iterator[list[int]]:
    """cu_seqlens of so many batches, each of as many documents as fill its tokens.

    The first is what a suite calls histogram:SEED.
    """
    dice = random.Random(seed)
    for _ in range(count):
        yield list(drawn(dice, tokens))
