"""What is to be computed over a cache of keys, as a backend is asked about it before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ring_attn_bench.plan.problem import DtypeName, Mask


@dataclass(frozen=True, slots=True)
class CachedProblem:
    """One attention call of queries that stand at the end of what a cache holds.

    queries: of each batch entry, or where they are packed of the longest. capacity: tokens that
    there is room for behind each entry. appended: tokens that are put into the cache first; 0 none.
    page_size: tokens of a page; None where each entry has a row of its own.
    rotary_dim: leading columns of q and of appended keys that are rotated; 0 none.
    splits: programs that share the keys of a head, if the caller says; 0 leaves it to the kernel.
    """

    batch: int
    queries: int
    capacity: int
    heads_q: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    mask: Mask
    softcap: float = 0.0
    alibi: bool = False
    appended: int = 0
    page_size: int | None = None
    rotary_dim: int = 0
    indexed: bool = False
    """Whether entries say which row of the cache is theirs."""
    padded: bool = False
    """Whether tokens at the beginning of a row count as not there."""
    packed: bool = False
    """Whether the queries of all entries lie one after another."""
    splits: int = 0
