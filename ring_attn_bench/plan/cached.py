"""What is to be computed over a cache of keys, as a backend is asked about it before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ring_attn_bench.plan.problem import DtypeName, Mask, Problem


@dataclass(frozen=True, slots=True)
class Dealt:
    """How the tokens of a cache are dealt to ranks: by blocks, in turn.

    block: tokens that stay together. Token t of a rank's row stands at place
    (t // block * ranks + rank) * block + t % block.
    """

    block: int
    ranks: int
    rank: int

    def count(self, places: int) -> int:
        """How many of the first places are this rank's."""
        turns, rest = divmod(places, self.block * self.ranks)
        return turns * self.block + min(max(rest - self.rank * self.block, 0), self.block)


MOST_SPLITS = 128
"""As in flash-attn: a GPU of twice that many multiprocessors has two heads at least."""


def merging_bytes(batch: int, queries: int, heads: int, head_dim_v: int, ranks: int) -> int:
    """What each rank receives in a step over a dealt cache: out and lse of all others, float32."""
    return 4 * (ranks - 1) * batch * queries * heads * (head_dim_v + 1)


@dataclass(frozen=True, slots=True)
class CachedProblem:
    """One attention call of queries that stand at the end of what a cache holds.

    queries: of each batch entry, or where they are packed of the longest. capacity: tokens that
    there is room for behind each entry. appended: tokens that are put into the cache first; 0 none.
    page_size: tokens of a page; None where each entry has a row of its own.
    rotary_dim: leading columns of q and of appended keys that are rotated; 0 none.
    latent: v is the first head_dim_v of k's columns, in the same memory, as multi-head latent
        attention decodes (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).
    splits: programs that share the keys of a head, if the caller says; 0 leaves it to the kernel.
        At most MOST_SPLITS.
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
    latent: bool = False
    dealt: Dealt | None = None
    """Where the cache holds one rank's tokens; capacity counts all ranks'."""

    @property
    def without_cache(self) -> Problem:
        """The same attention over keys in a row: what else a kernel may be unable to do of it."""
        return Problem(
            batch=self.batch,
            seqlen=self.capacity,
            queries=self.queries,
            heads_q=self.heads_q,
            heads_kv=self.heads_kv,
            head_dim=self.head_dim,
            head_dim_v=self.head_dim_v,
            dtype=self.dtype,
            device=self.device,
            mask=self.mask,
            softcap=self.softcap,
            alibi=self.alibi,
            backward=False,
            packed=self.packed,
        )
