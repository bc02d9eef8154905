"""One GPU as a rank of several: what the checks of one launch ask, and keys that land, or do not.

The other ranks' keys lie in a landing area, inside memory of NaN. They have all landed, or they are
late: the area is NaN too, and copies of another stream bring piece after piece from pinned memory,
each with its words, while the kernel waits. Copies of pinned memory need no multiprocessor: the
waiting programs may have them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from measuring.cute import CAUSAL, DEVICE, FULL, inside
from torch import Tensor

from ring_attn_bench.contract.tensors import Gathering, Keys
from ring_attn_bench.plan.gathered import Gathered, gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Spans
from ring_attn_bench.plan.problem import Mask

CYCLES = 20_000_000
"""Of a GPU's clock, about 10 ms: until the first piece is sent, when the kernel has begun."""


@dataclass(frozen=True)
class Check:
    """A rank of a world, with so many tokens each. head_groups: how many arrive apart.

    wide: whether gradients of others' keys are float32, else in the inputs' dtype.
    """

    name: str
    tokens: int = 256
    partition: str = "zigzag"
    rank: int = 1
    world: int = 4
    mask: Mask = CAUSAL
    heads: int = 4
    key_heads: int = 2
    batch: int = 1
    softcap: float = 0.0
    dtype: torch.dtype = torch.bfloat16
    late: bool = False
    lost: bool = False
    head_groups: int = 1
    wide: bool = False

    @property
    def shards(self) -> list[Spans]:
        """The rank's own, then those of the ranks before it, the next first."""
        ranks = [(self.rank - i) % self.world for i in range(self.world)]
        spans = PARTITIONS[self.partition].spans
        return [spans(rank, self.world, self.tokens) for rank in ranks]

    @property
    def positions(self) -> list[Tensor]:
        """Of each shard's tokens."""
        return [
            torch.tensor([p for span in shard for p in span.positions()], device=DEVICE)
            for shard in self.shards
        ]

    @property
    def where(self) -> Gathered:
        """What sees what."""
        parts = [
            (piece, chunk)
            for piece, shard in enumerate(self.shards)
            for chunk in chunks(shard, max(0, piece - 1) * self.tokens)
        ]
        return gathered(chunks(self.shards[0]), parts, self.mask.band, join=True)

    @property
    def away(self) -> torch.dtype:
        """Of gradients of others' keys."""
        return torch.float32 if self.wide else self.dtype


CHECKS = (
    Check("one rank", 300, world=1, rank=0),
    Check("one tile of each", 64, "contiguous", mask=FULL, world=2),
    Check("all landed, full", mask=FULL),
    Check("all landed, causal", wide=True),
    Check("all landed, pieces that end inside of tiles", 334),
    Check("striped", 333, "striped"),
    Check("contiguous, a rank that sees nothing of later ones", 300, "contiguous"),
    Check("window", 400, "contiguous", mask=Mask(causal=True, window_left=333), rank=2),
    Check("grouped heads, batch", 260, heads=8, batch=3, wide=True),
    Check("softcap", 300, softcap=5.0),
    Check("float16", 334, dtype=torch.float16),
    Check("float16, softcap", 334, softcap=9.0, dtype=torch.float16, wide=True),
    Check("late", 334, late=True),
    Check("late, full, many programs", 2048, mask=FULL, heads=16, key_heads=4, late=True),
    Check("late, causal, many programs", 2048, heads=16, key_heads=4, late=True),
    Check("late, heads apart", 1024, heads=16, key_heads=4, late=True, head_groups=4),
    Check("late, batch, heads apart", 260, heads=8, batch=2, late=True, head_groups=2),
    Check("late, the last piece is lost", 334, mask=FULL, late=True, lost=True),
)


@dataclass(frozen=True)
class Landing:
    """Landed keys, or values: head by head in memory, so that a piece of a head is one copy."""

    whole: Tensor
    source: Tensor

    @classmethod
    def of(cls, values: Tensor, *, late: bool) -> Landing:
        """For values (B, L, G, D), which are there unless they are late."""
        source = values.transpose(1, 2).flatten(0, 1).contiguous()
        heads, tokens, dim = source.shape
        nan = float("nan")
        whole = torch.full((heads, tokens + 8, dim), nan, dtype=values.dtype, device=DEVICE)
        landing = cls(whole, source.cpu().pin_memory() if late else source)
        if not late:
            landing.part.copy_(source)
        return landing

    @property
    def part(self) -> Tensor:
        """(heads, tokens, D) of the landing area."""
        return self.whole[:, 4:-4]

    def keys(self, batch: int) -> Tensor:
        """As a launch takes them."""
        return self.part.unflatten(0, (batch, -1)).transpose(1, 2)

    def bring(self, head: int, first: int, stop: int) -> None:
        """Copies a piece's tokens of a head, on the current stream."""
        self.part[head, first:stop].copy_(self.source[head, first:stop], non_blocking=True)


@dataclass(frozen=True)
class Arrival:
    """Keys of one launch, and what has them sent; words: None where all have landed."""

    check: Check
    own: Keys
    landings: tuple[Landing, Landing]
    words: Tensor | None

    @classmethod
    def of(cls, check: Check, k: Tensor, v: Tensor) -> Arrival:
        """For keys and values (B, tokens of all ranks, G, D), the rank's own first."""
        mine = (x[:, : check.tokens] for x in (k, v))
        own = Keys(*(inside(*x.shape, dtype=check.dtype, values=x)[0] for x in mine))
        of_k, of_v = (Landing.of(x[:, check.tokens :], late=check.late) for x in (k, v))
        words = None
        if check.late:
            count = 1 + (check.world - 1) * check.head_groups
            words = torch.zeros(count, dtype=torch.int32, device=DEVICE)
        return cls(check, own, (of_k, of_v), words)

    @property
    def keys(self) -> Gathering:
        """As a launch takes them."""
        batch = self.check.batch
        landed = Keys(*(x.keys(batch) for x in self.landings))
        return Gathering(self.own, landed, self.words, self.check.head_groups)

    def send(self) -> None:
        """Has a stream bring piece after piece, a while from now; nothing where all has landed."""
        check, words = self.check, self.words
        if words is None:
            return
        one = torch.ones(1, dtype=torch.int32).pin_memory()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        each = check.batch * check.key_heads // check.head_groups
        with torch.cuda.stream(stream):
            # a kernel itself: in front of the one that waits, which may leave it no multiprocessor
            torch.cuda._sleep(CYCLES)
            for piece in range(1, check.world):
                if check.lost and piece == check.world - 1:
                    words[:1].copy_(one, non_blocking=True)
                    break
                for group in range(check.head_groups):
                    for head in range(group * each, (group + 1) * each):
                        for landing in self.landings:
                            landing.bring(head, (piece - 1) * check.tokens, piece * check.tokens)
                    place = 1 + (piece - 1) * check.head_groups + group
                    words[place : place + 1].copy_(one, non_blocking=True)
