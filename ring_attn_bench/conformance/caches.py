"""A cache of keys and queries at its end, as a frozen value; torch is imported on use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ring_attn_bench.conformance.cases import ALL, AnyCase, Kind
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.contract.cache import caching, reason_over_cache, takes_sinks
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Mask, Problem, Score


@dataclass(frozen=True)
class CachedCase(AnyCase):
    """Queries over a cache with their shapes.

    lengths: tokens of each entry, before the append. room: tokens that there is room for; what
    holds none is NaN. told: whether lengths are given, and are not all that there is room for.
    page: tokens of a page, of which an entry's are scattered; None is a row for each entry.
    rows: each entry's row; () is its own number. skipped: tokens of each that are not there.
    rotary: columns that are rotated.
    latent: whether v is the first dim_v of k's columns, in the same memory.
    """

    lengths: tuple[int, ...]
    queries: int = 1
    mask: Mask = ALL
    room: int = 160
    told: bool = True
    page: int | None = None
    rows: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    appended: int = 0
    rotary: int = 0
    interleaved: bool = True
    heads: int = 4
    key_heads: int = 2
    dim: int = 64
    dim_v: int | None = None
    softcap: float = 0.0
    alibi: bool = False
    sink: bool = False
    splits: int = 0
    latent: bool = False

    @property
    def kind(self) -> Kind[Any]:
        """All entries in one call."""
        from ring_attn_bench.conformance import cached

        return cached

    @property
    def head_dim_v(self) -> int:
        """E, the head dim of v."""
        return self.dim if self.dim_v is None else self.dim_v

    @property
    def one_place(self) -> bool:
        """Whether all queries are rotated alike, as flash-attn does without a mask."""
        return not (self.mask.causal or self.mask.has_window)

    def score(self, device: str) -> Score:
        """How the case's scores are made."""
        import torch

        slopes = 0.5 ** torch.arange(1, self.heads + 1, device=device) if self.alibi else None
        return Score(self.dim**-0.5, self.softcap, slopes)

    def problem(
        self, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> Problem:
        """The same attention without a cache; a backend is asked about `cached_problem`."""
        return self.cached_problem(device).without_cache

    def cached_problem(self, device: str) -> CachedProblem:
        """What the backend is asked about the case before it runs."""
        return CachedProblem(
            batch=len(self.lengths),
            queries=self.queries,
            capacity=self.room,
            heads_q=self.heads,
            heads_kv=self.key_heads,
            head_dim=self.dim,
            head_dim_v=self.head_dim_v,
            dtype=self.dtype,
            device="cuda" if device == "cuda" else "cpu",
            mask=self.mask,
            softcap=self.softcap,
            alibi=self.alibi,
            appended=self.appended,
            page_size=self.page,
            rotary_dim=self.rotary,
            indexed=bool(self.rows),
            padded=bool(self.skipped),
            splits=self.splits,
            latent=self.latent,
        )

    def refusal(
        self, backend: Backend, device: str, *, deterministic: bool = False, backward: bool = True
    ) -> str | None:
        """Why the backend is not asked to compute the case, or None."""
        if backward:
            return "attention over a cache is forward only"
        kernel = caching(backend)
        if kernel is None:
            return "it has no attention over a cache"
        if self.sink and not takes_sinks(kernel):
            return "it has no sinks over a cache: they are joined to its results"
        return reason_over_cache(kernel, self.cached_problem(device))
