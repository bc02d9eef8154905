"""Lengths of packed documents, drawn from a histogram of published ones."""

from __future__ import annotations

import csv
import random
from functools import cache
from itertools import accumulate

from ring_attn_bench.bench.suite_files import folder
from ring_attn_bench.plan.documents import Starts

Bins = tuple[tuple[int, int, int], ...]
"""The shortest and the longest length of a bin, and how many documents it has."""


@cache
def published() -> Bins:
    """Of 13.5 million documents: configs/document_lengths.csv, whose source configs/README.md has.

    MagiAttention's benchmark of context parallelism, github.com/SandAI-org/MagiAttention at
    2c64135, exps/dist_attn/benchmark/datasets/default/doc_length_distribution.csv, Apache-2.0; an
    empty document of its first bin counts as one of a token.
    """
    with (folder() / "document_lengths.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    return tuple((int(first), int(last), int(count)) for first, last, count in rows)


def drawn(dice: random.Random, tokens: int, unit: int = 1) -> Starts:
    """cu_seqlens of as many documents as fill so many tokens.

    A length is any of its bin, each as likely, rounded up to a multiple of `unit`; a document that
    does not fit is cut where the batch ends, and one longer than a batch is a batch.
    """
    bins = published()
    counts = [count for *_, count in bins]
    lengths: list[int] = []
    left = tokens
    while left:
        ((first, last, _),) = dice.choices(bins, counts)
        length = -(-dice.randint(first, last) // unit) * unit
        lengths.append(min(left, length))
        left -= lengths[-1]
    return tuple(accumulate(lengths, initial=0))
