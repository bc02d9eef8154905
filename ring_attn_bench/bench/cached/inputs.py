"""Random tokens of a case over a cache, and how they lie in one: rows or pages, NaN between them.

B batch, N tokens of an entry, M queries, G key heads; A new tokens, C room behind an entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import lcm
from random import Random

import torch
from torch import Tensor

from ring_attn_bench.bench.flops import head_dim_v
from ring_attn_bench.bench.inputs import dtype_of
from ring_attn_bench.contract.cache import is_latent
from ring_attn_bench.plan.cached import Dealt
from ring_attn_bench.records.cache_shape import BLOCK, CacheShape
from ring_attn_bench.records.record import Case

SPARE_PAGES = 3
"""That are no entry's."""


@dataclass(frozen=True)
class Tokens:
    """q (B, M, H, D), and k (B, N, G, D), v (B, N, G, E) of all tokens, new ones included.

    totals: how many of its N each entry has. Of latent keys v is the first of k's columns.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    totals: tuple[int, ...]


@dataclass(frozen=True)
class CacheInputs:
    """What a call is given on one rank, by flash-attn's names; None is not given."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    cache_seqlens: Tensor
    k: Tensor | None = None
    v: Tensor | None = None
    block_table: Tensor | None = None
    cache_leftpad: Tensor | None = None
    rotary_cos: Tensor | None = None
    rotary_sin: Tensor | None = None

    def copy_from(self, other: CacheInputs) -> None:
        """Takes over the contents of another of the same case, in this one's memory."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine is not None:
                mine.copy_(theirs)

    def clone(self) -> CacheInputs:
        """The same in memory of its own, where v_cache is part of k_cache if it is here."""
        cloned = {name: x.clone() for name, x in vars(self).items() if x is not None}
        if self.is_latent:
            cloned["v_cache"] = cloned["k_cache"][..., : self.v_cache.shape[-1]]
        return replace(self, **cloned)

    @property
    def is_latent(self) -> bool:
        """Whether v_cache is the first of k_cache's columns, in the same memory."""
        return is_latent(self.k_cache, self.v_cache)

    @property
    def bytes(self) -> int:
        """Of the cache."""
        return self.k_cache.nbytes + (0 if self.is_latent else self.v_cache.nbytes)


def shape_of(case: Case) -> CacheShape:
    """The case's cache, which it has."""
    assert case.cache is not None  # whoever comes here has asked
    return case.cache


def draw(case: Case, seed: int, device: torch.device, *, uneven: bool = False) -> Tokens:
    """Standard normal, the same on all ranks; in float32 first, as those of a ring.

    uneven: whether entries but the first have fewer tokens, by half of them at most.
    """
    generator = torch.Generator(device=device).manual_seed(seed)

    def drawn(tokens: int, heads: int, width: int) -> Tensor:
        shape = (case.batch, tokens, heads, width)
        return torch.randn(*shape, generator=generator, device=device).to(dtype_of(case))

    cache, total = shape_of(case), case.seqlen_total
    q = drawn(cache.queries, case.heads_q, case.head_dim)
    k = drawn(total, case.heads_kv, case.head_dim)
    width = head_dim_v(case)
    v = k[..., :width] if cache.latent else drawn(total, case.heads_kv, width)
    fewer, random = (total - cache.queries - cache.leftpad) // 2, Random(seed)
    less = [random.randint(0, fewer) if uneven and entry else 0 for entry in range(case.batch)]
    return Tokens(q, k, v, tuple(total - missing for missing in less))


def lay(case: Case, tokens: Tokens, seed: int, rank: int = 0) -> CacheInputs:
    """The tokens in a cache as the case says, on that rank; what is to be appended beside it.

    Pages are scattered. Where no token is, in left padding too, K and V are NaN. Of latent keys
    there is one cache, whose first columns are v_cache.
    """
    shape, device = shape_of(case), tokens.q.device
    room, new = room_of(case), shape.queries if shape.append else 0
    table = None
    size = (case.batch, room)
    if shape.page is not None:
        pages = room // shape.page
        count = case.batch * pages + SPARE_PAGES
        random = torch.Generator("cpu").manual_seed(seed)
        order = torch.randperm(count, generator=random, device="cpu")[: case.batch * pages]
        table = order.view(case.batch, pages).to(device, torch.int32)
        size = (count, shape.page)
    old = [total - new for total in tokens.totals]
    caches = []
    for x in (tokens.k,) if shape.latent else (tokens.k, tokens.v):
        cache = torch.full((*size, *x.shape[2:]), float("nan"), dtype=x.dtype, device=device)
        put(case, cache, x, old, table, rank)
        caches.append(cache)
    if shape.latent:
        caches.append(caches[0][..., : head_dim_v(case)])
    cos = sin = None
    if shape.rotary is not None:
        # the angles that the authors took (Su et al. 2021)
        rates = 1e4 ** -(torch.arange(0, case.head_dim, 2, device=device) / case.head_dim)
        angles = torch.arange(room * case.world_size, device=device)[:, None] * rates
        cos, sin = (f(angles).to(dtype_of(case)) for f in (torch.cos, torch.sin))
    lengths = torch.tensor(old, dtype=torch.int32, device=device)
    return CacheInputs(
        tokens.q, caches[0], caches[1], lengths,
        ends(tokens.k, tokens.totals, new) if new else None,
        ends(tokens.v, tokens.totals, new) if new else None,
        table,
        torch.full_like(lengths, shape.leftpad) if shape.leftpad else None,
        cos, sin,
    )  # fmt: skip


def put(
    case: Case, cache: Tensor, x: Tensor, counts: Sequence[int], table: Tensor | None, rank: int
) -> None:
    """Puts each entry's first tokens of x (B, N, ...), but padding, where they lie on a rank."""
    leftpad = shape_of(case).leftpad
    own, places = owned(case, torch.arange(leftpad, max(counts), device=x.device), rank)
    slots = slots_of(case, places, table)
    there = own < torch.tensor(counts, device=x.device)[:, None]
    cache.flatten(0, 1)[slots[there]] = x[:, own][there]


def ends(x: Tensor, totals: Sequence[int], count: int) -> Tensor:
    """Of x (B, N, ...) each entry's last tokens, (B, count, ...)."""
    return torch.stack([x[entry, total - count : total] for entry, total in enumerate(totals)])


def room_of(case: Case) -> int:
    """C on a rank: some more than it needs, in whole blocks and pages."""
    blocks = case.seqlen_total // (BLOCK * case.world_size) + 2
    unit = lcm(BLOCK, shape_of(case).page or 1)
    return -(-blocks * BLOCK // unit) * unit


def dealt(case: Case, rank: int) -> Dealt | None:
    """How the cache lies on ranks; None on one."""
    return None if case.world_size == 1 else Dealt(BLOCK, case.world_size, rank)


def owned(case: Case, at: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Of tokens of an entry those that are the rank's, and where they stand in its row."""
    turn = BLOCK * case.world_size
    own = at[at // BLOCK % case.world_size == rank]
    return own, own // turn * BLOCK + own % BLOCK


def slots_of(case: Case, places: Tensor, table: Tensor | None) -> Tensor:
    """(B, tokens): where in the cache, its rows or pages laid out flat, places of a row are."""
    page = shape_of(case).page
    if table is None or page is None:
        rows = torch.arange(case.batch, device=places.device)[:, None]
        return rows * room_of(case) + places
    return table[:, places // page].long() * page + places % page
