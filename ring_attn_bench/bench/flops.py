"""How much work a case is, from the exact area of its mask."""

from __future__ import annotations

from itertools import pairwise

from ring_attn_bench.bench.documents import first_tokens, starts_of
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case

_MATMULS = {Direction.FORWARD: 2, Direction.BACKWARD: 5, Direction.FORWARD_BACKWARD: 7}
"""Matrix products of one pair of query and key: q k and p v; then q k again, dp, dv, dq, dk."""


def flops(case: Case, direction: Direction, area: int) -> int:
    """Floating-point operations for `area` allowed pairs: 2 per head dim, product and query head.

    This is the field's convention: 4 * area * heads * dim forward, 2.5 times that backward.
    """
    if case.cache is not None:  # forward only
        return 2 * area * case.heads_q * (case.head_dim + head_dim_v(case)) * case.batch
    return 2 * _MATMULS[direction] * area * case.heads_q * case.head_dim * case.batch


def area(case: Case) -> int:
    """Allowed pairs of the whole sequence, or of the queries over what a cache holds."""
    if case.cache is not None:
        queries, keys, here = _at_the_end(case, case.cache)
        return here.area(queries, keys)
    return area_of_first(case, case.seqlen_total)


def area_of_first(case: Case, tokens: int) -> int:
    """Allowed pairs of so many tokens of a sequence, or of those that documents begin with."""
    here, starts = band(case), starts_of(case)
    if starts is None:
        return here.area(tokens, tokens)
    return sum(here.area(b - a, b - a) for a, b in pairwise(first_tokens(starts, tokens)))


def cache_bytes(case: Case, element: int) -> int:
    """Of K and V what some query sees over a cache of elements of so many bytes; 0 without one.

    All of it has to be read, and once is enough: of latent keys, which V is part of, K alone.
    """
    if case.cache is None:
        return 0
    queries, keys, here = _at_the_end(case, case.cache)
    tokens = len(here.visible_keys(queries, keys))
    columns = case.head_dim + (0 if case.cache.latent else head_dim_v(case))
    return case.batch * tokens * case.heads_kv * columns * element


def _at_the_end(case: Case, cache: CacheShape) -> tuple[int, int, Band]:
    """Queries, keys that are there, and the band between their indices."""
    queries, keys = cache.queries, case.seqlen_total - cache.leftpad
    return queries, keys, band(case).between(Span(keys - queries, keys), Span(0, keys))


def head_dim_v(case: Case) -> int:
    """Numbers in a head of v."""
    own = None if case.cache is None else case.cache.head_dim_v
    return case.head_dim if own is None else own


def band(case: Case) -> Band:
    """The case's band of allowed distances."""
    return Mask.from_window_size(case.causal, case.window).band


def equal_work_length(case: Case, devices: int, unit: int = 64) -> int:
    """The length, a multiple of `unit`, whose area is nearest to one device's share.

    Of a sequence, or of packed documents, which are then the batch's first ones.
    """
    share = area(case) / devices
    low, high = 1, -(-case.seqlen_total // unit)  # rounded up
    while low < high:
        middle = (low + high) // 2
        if area_of_first(case, middle * unit) < share:
            low = middle + 1
        else:
            high = middle
    lengths = (max(1, low - 1) * unit, low * unit)
    return min(lengths, key=lambda n: abs(area_of_first(case, n) - share))
