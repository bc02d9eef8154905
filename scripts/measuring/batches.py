"""Batches of packed documents whose lengths are drawn from a histogram."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

PUBLISHED = Path(__file__).parents[2] / "configs" / "document_lengths.csv"
"""Lengths of 13.5 million documents in 14 bins: MagiAttention's benchmark of context parallelism,
github.com/SandAI-org/MagiAttention at 2c64135,
exps/dist_attn/benchmark/datasets/default/doc_length_distribution.csv, Apache-2.0; an empty document
of its first bin counts as one of a token."""


def batches(tokens: int, count: int, seed: int = 0, path: Path = PUBLISHED) -> Iterator[list[int]]:
    """cu_seqlens of so many batches, each of as many documents as fill its tokens.

    A length is any of its bin, each as likely; a document that does not fit is cut where the batch
    ends, and one longer than a batch is a batch.
    """
    dice = random.Random(seed)
    with path.open(encoding="utf-8") as file:
        bins = [tuple(map(int, row.values())) for row in csv.DictReader(file)]
    for _ in range(count):
        lengths: list[int] = []
        left = tokens
        while left:
            first, last, _ = dice.choices(bins, [number for *_, number in bins])[0]
            lengths.append(min(left, dice.randint(first, last)))
            left -= lengths[-1]
        yield list(accumulate(lengths, initial=0))
