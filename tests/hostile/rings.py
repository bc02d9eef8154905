"""Calls of packed documents on rings of several ranks, drawn from a seed.

Who holds what is worked out from the partitions' definitions, but for the partitions that the
library makes for a batch: of these every token must be on one rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from random import Random

import torch
from torch import Tensor

from ring_attn_bench import documents, shard_documents
from ring_attn_bench.plan.documents import DealtDocuments
from tests.hostile.judge import positions
from tests.hostile.values import randn

CHOSEN = ("head_tail", "balanced")
PARTITIONS = ("contiguous", "zigzag", "striped", *CHOSEN)
LOCAL = {"ring": 1, "zigzag_ring": 2}
"""Pieces of each document on a rank, of the functions with cu_seqlens of a rank's tokens."""


@dataclass(frozen=True)
class Case:
    """One call of all ranks.

    form: `own` is ring_attn_varlen_func, others are ring-flash-attention's by name. rows: where
    documents' queries begin, if others than `starts`. tokens: of each rank, on both sides. needs:
    by rank, of which tensors gradients are asked. beyond: what padding holds.
    """

    world_size: int
    form: str
    starts: tuple[int, ...]
    tokens: int
    partition: str = "contiguous"
    rows: tuple[int, ...] | None = None
    row_partition: str = "contiguous"
    used: tuple[int, ...] | None = None
    uneven: bool = False
    as_value: bool = True
    heads: int = 2
    groups: int = 2
    dim: int = 8
    dim_v: int = 8
    dtype: torch.dtype = torch.float64
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    scale: float | None = None
    alibi: bool = False
    sink: bool = False
    probs: bool = True
    strided: bool = False
    needs: tuple[str, ...] = ()
    beyond: float = float("nan")
    schedule: str = "auto"
    transport: str = "p2p"
    keep_keys: bool = False

    def value(self, side: str) -> DealtDocuments:
        """The documents of queries or of keys."""
        if side == "q" and self.rows is not None:
            return documents(self.rows, self.row_partition, self.world_size, uneven=True)
        whole = None if self.uneven else self.tokens * self.world_size
        return documents(
            self.starts, self.partition, self.world_size, whole, uneven=self.uneven,
            causal=self.causal, window_size=self.window, seqused=self.used,
        )  # fmt: skip

    def whole(self, side: str) -> int:
        """Tokens that the ranks hold together."""
        if side == "q" and self.rows is not None:
            return self.rows[-1]
        return self.starts[-1] if self.uneven else self.tokens * self.world_size

    def places(self, side: str) -> list[list[int]]:
        """By rank, where its tokens are in the packed sequence."""
        if self.form != "own":
            return [self._peers(rank) for rank in range(self.world_size)]
        cross = side == "q" and self.rows is not None
        name = self.row_partition if cross else self.partition
        if name in CHOSEN:
            every = torch.arange(self.whole(side))
            value = self.value(side)
            return [shard_documents(every, value, r).tolist() for r in range(self.world_size)]
        end, unit = self.whole(side), self.world_size * (2 if name == "zigzag" else 1)
        padded = max(1, -(-end // unit)) * unit
        dealt = (positions(padded, r, self.world_size, name) for r in range(self.world_size))
        return [[at for at in mine if at < end] for mine in dealt]

    def _peers(self, rank: int) -> list[int]:
        ranks, found = self.world_size, []
        if self.form == "llama3":
            return list(range(self.tokens * rank, self.tokens * (rank + 1)))
        for start, stop in pairwise((*self.starts, self.tokens * ranks)):
            size = (stop - start) // (ranks * LOCAL[self.form])
            for piece in (rank, 2 * ranks - 1 - rank)[: LOCAL[self.form]]:
                found += range(start + piece * size, start + (piece + 1) * size)
        return found

    def inputs(self) -> dict[str, Tensor]:
        """Of the whole packed sequence, with what padding holds; dlse (heads, queries)."""
        rows, keys = self.whole("q"), self.whole("k")
        made = {
            "q": randn(1, rows, self.heads, self.dim, dtype=self.dtype),
            "k": randn(2, keys, self.groups, self.dim, dtype=self.dtype),
            "v": randn(3, keys, self.groups, self.dim_v, dtype=self.dtype),
            "dout": randn(4, rows, self.heads, self.dim_v, dtype=self.dtype),
        }
        outside = torch.ones(keys, dtype=torch.bool)
        for at in self.used_keys():
            outside[at] = False
        for name in ("k", "v") if self.rows is not None else ("q", "k", "v", "dout"):
            made[name][outside] = self.beyond
        wide = torch.promote_types(self.dtype, torch.float32)
        made["dlse"] = randn(5, self.heads, rows, dtype=wide) * self.probs
        return made

    def used_keys(self) -> list[slice]:
        """By document."""
        counts = self.used or [b - a for a, b in pairwise(self.starts)]
        return [slice(a, a + n) for a, n in zip(self.starts, counts, strict=False)]

    @property
    def slopes(self) -> Tensor | None:
        return 0.5 ** torch.arange(1.0, self.heads + 1) if self.alibi else None

    @property
    def sinks(self) -> Tensor | None:
        return randn(6, self.heads, dtype=self.dtype) if self.sink else None


def drawn(random: Random) -> Case:
    """The next call."""
    world, form = random.randint(1, 4), random.choice(("own",) * 6 + (*LOCAL, "llama3"))
    unit = world * LOCAL.get(form, 1) if form in LOCAL else 1
    lengths = [unit * n for n in _lengths(random)]
    starts = tuple(accumulate(lengths, initial=0))
    dealt = 2 * world if form in ("own", "zigzag_ring") else world
    whole = max(1, -(-starts[-1] // dealt)) * dealt
    groups = random.choice((1, 1, 2))
    dim = random.choice((8, 16))
    case = Case(
        world, form, starts, whole // world, random.choice(PARTITIONS),
        heads=groups * random.choice((1, 2, 3)), groups=groups, dim=dim,
        dim_v=random.choice((dim, dim, 24 - dim)),
        dtype=random.choice((torch.float64,) * 3 + (torch.float32, torch.bfloat16, torch.float16)),
        causal=random.random() < 0.5,
        window=random.choice(((-1, -1), (-1, -1), (2, 0), (0, 0), (3, 1), (-1, 2), (5, -1))),
        softcap=random.choice((0.0, 0.0, 1.5)), scale=random.choice((None, None, 0.4, -0.3)),
        alibi=random.random() < 0.2, sink=random.random() < 0.3, probs=random.random() < 0.6,
        strided=random.random() < 0.2, as_value=random.random() < 0.6,
        beyond=random.choice((float("nan"), float("inf"), 0.0)),
        needs=tuple(_needs(random, world)), keep_keys=random.random() < 0.2,
        schedule=random.choice(("auto", "auto", "steps", "gather", "grouped", "one_launch")),
        transport=random.choice(("p2p", "p2p", "all_gather")),
    )  # fmt: skip
    if form == "llama3":  # which has no padding
        last = (*starts[:-1], whole)
        return replace(case, partition="contiguous", starts=last)
    if form != "own":
        return replace(case, partition="contiguous")
    return _extended(random, case, lengths)


def _extended(random: Random, case: Case, lengths: list[int]) -> Case:
    """With what ring-flash-attention's functions do not take."""
    dice = random.random()
    if dice < 0.2:
        rows = tuple(accumulate((random.choice((0, 1, 4, 9)) for _ in lengths), initial=0))
        return replace(case, rows=rows, row_partition=random.choice(PARTITIONS), uneven=True)
    if dice < 0.4:
        return replace(case, uneven=True)
    if dice < 0.6:
        return replace(case, used=tuple(random.randint(0, n) for n in lengths))
    return case


def _lengths(random: Random) -> list[int]:
    match random.randrange(5):
        case 0:  # one huge, and crumbs
            return [1, 0, random.randint(20, 60), 1, 1]
        case 1:
            return [1] * random.randint(1, 30)
        case 2:
            return [0, 0, random.randint(1, 9), 0]
        case 3:
            return [random.randint(1, 40)]
        case _:
            return [random.choice((0, 1, 2, 3, 7, 12)) for _ in range(random.randint(1, 8))]


def _needs(random: Random, world: int) -> list[str]:
    """Mostly of all tensors, or of the same; or of others on each rank."""
    if random.random() < 0.7:
        return ["qkv"] * world
    if random.random() < 0.5:
        return [random.choice(("", "q", "kv", "v"))] * world
    return [random.choice(("", "q", "k", "qkv")) for _ in range(world)]
