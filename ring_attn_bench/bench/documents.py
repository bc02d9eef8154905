"""Packed documents of a case: where they begin, and how a partition deals them to ranks.

A case names them by a word, histogram:SEED, or histogram:SEED:UNIT where every length is a multiple
of UNIT: the same batch wherever it is read, so that records need not hold its lengths.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from ring_attn_bench.bench.document_lengths import drawn
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import DealtDocuments, Starts
from ring_attn_bench.plan.partition import Rule, get_partition
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.records.record import Case

_WORD = re.compile(r"histogram:(\d{1,9})(?::([1-9]\d{0,8}))?", re.ASCII)


def check_word(word: str) -> str:
    """The word; raises InvalidArgument unless it names documents."""
    _read(word)
    return word


def _read(word: str) -> tuple[int, int]:
    """Seed and unit."""
    read = _WORD.fullmatch(word)
    if read is None:
        raise InvalidArgument(
            f"documents is {shown(word)}; it must be histogram:SEED, lengths drawn from "
            "configs/document_lengths.csv, or histogram:SEED:UNIT, where each is a multiple of "
            "UNIT tokens."
        )
    return int(read[1]), int(read[2] or 1)


def starts_of(case: Case) -> Starts | None:
    """cu_seqlens of the case's documents; None of one sequence. Raises InvalidArgument."""
    return None if case.documents is None else _starts(case.documents, case.seqlen_total)


@lru_cache(maxsize=64)
def _starts(word: str, tokens: int) -> Starts:
    seed, unit = _read(word)
    if tokens % unit:
        raise InvalidArgument(
            f"documents is {word!r}, whose lengths are multiples of {unit}, and a batch has "
            f"{tokens} tokens; that must be a multiple of {unit} too."
        )
    return drawn(random.Random(seed), tokens, unit)


def rule_of(case: Case, partition: str) -> Rule:
    """How the partition of that name deals the case; raises InvalidArgument where it cannot."""
    dealt = dealt_of(case, partition)
    return get_partition(partition) if dealt is None else dealt.partition


def dealt_of(case: Case, partition: str) -> DealtDocuments | None:
    """The case's documents as they are dealt to its ranks; None of one sequence."""
    starts = starts_of(case)
    if starts is None:
        return None
    band = Mask.from_window_size(case.causal, case.window).band
    return _dealt(starts, partition, case.world_size, band)


@lru_cache(maxsize=64)
def _dealt(starts: Starts, partition: str, world_size: int, band: Band) -> DealtDocuments:
    deal = DEALS.get(partition)
    rule: Rule = get_partition(partition if deal is None else "contiguous")
    tokens = rule.tokens_per_rank(starts[-1], world_size)
    if deal is not None:
        rule = deal(starts, world_size, tokens, band)
    return DealtDocuments(starts, rule, world_size, tokens)


def first_tokens(starts: Starts, tokens: int) -> Starts:
    """cu_seqlens of the batch's first tokens: its documents up to there, the last one cut."""
    end = min(tokens, starts[-1])
    return (*(start for start in starts if start < end), end)


def stretches(starts: Starts | None, tokens: int) -> Iterator[tuple[int, int]]:
    """Where each document begins and ends, of those that have tokens; or the whole sequence."""
    return ((a, b) for a, b in pairwise((0, tokens) if starts is None else starts) if a < b)
