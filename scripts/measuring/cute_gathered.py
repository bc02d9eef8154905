"""The one launch over gathered keys of `scripts/cute_check.py`: checks against float64, no times.

One GPU is a rank of several: the other ranks' keys lie in a landing area, inside memory of NaN.
They have all landed, or they are late: the area is NaN too, and copies of another stream bring
piece after piece from pinned memory, each with its words, while the kernel waits. Copies of pinned
memory need no multiprocessor: the waiting programs may have them all. One check loses the last
piece: then every row is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measuring.cute import CAUSAL, DEVICE, FULL, inside, untouched
from ring_attn_backends.cute import table
from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.gathered.launch import forward_call
from ring_attn_backends.cute.launch import Launch
from torch import Tensor

from ring_attn_bench.contract.tensors import Gathering, Keys
from ring_attn_bench.plan.gathered import Gathered, gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Spans
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle, tolerance

CYCLES = 20_000_000
"""Of a GPU's clock, about 10 ms: until the first piece is sent, when the kernel has begun."""


@dataclass(frozen=True)
class Check:
    """A rank of a world, with so many tokens each. head_groups: how many arrive apart."""

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


CHECKS = (
    Check("one rank", 300, world=1, rank=0),
    Check("one tile of each", 64, "contiguous", mask=FULL, world=2),
    Check("all landed, full", mask=FULL),
    Check("all landed, causal"),
    Check("all landed, pieces that end inside of tiles", 334),
    Check("striped", 333, "striped"),
    Check("contiguous, a rank that sees nothing of later ones", 300, "contiguous"),
    Check("window", 400, "contiguous", mask=Mask(causal=True, window_left=333), rank=2),
    Check("grouped heads, batch", 260, heads=8, batch=3),
    Check("softcap", 300, softcap=5.0),
    Check("float16", 334, dtype=torch.float16),
    Check("float16, softcap", 334, softcap=9.0, dtype=torch.float16),
    Check("late", 334, late=True),
    Check("late, full, many programs", 2048, mask=FULL, heads=16, key_heads=4, late=True),
    Check("late, causal, many programs", 2048, heads=16, key_heads=4, late=True),
    Check("late, heads apart", 1024, heads=16, key_heads=4, late=True, head_groups=4),
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


def send(check: Check, landings: tuple[Landing, Landing], words: Tensor) -> torch.cuda.Stream:
    """Has a stream bring piece after piece, a while from now."""
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
                    for landing in landings:
                        landing.bring(head, (piece - 1) * check.tokens, piece * check.tokens)
                place = 1 + (piece - 1) * check.head_groups + group
                words[place : place + 1].copy_(one, non_blocking=True)
    return stream


def run(
    check: Check, tensors: tuple[Tensor, Tensor, Tensor], score: Score, config: table.Config,
    kept: Path | None,
) -> tuple[Tensor, Tensor, str]:  # fmt: skip
    """out and lse, and what else was written."""
    q, k, v = tensors
    own = Keys(*(inside(*x[:, : check.tokens].shape, dtype=check.dtype,
                        values=x[:, : check.tokens])[0] for x in (k, v)))  # fmt: skip
    landings = tuple(Landing.of(x[:, check.tokens :], late=check.late) for x in (k, v))
    out, whole_out = inside(*q.shape, dtype=check.dtype)
    lse, whole_lse = inside(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
    words = None
    if check.late:
        count = 1 + (check.world - 1) * check.head_groups
        words = torch.zeros(count, dtype=torch.int32, device=DEVICE)
    keys = Gathering(own, Keys(*(x.keys(check.batch) for x in landings)), words, check.head_groups)
    where = check.where  # as long as its tables are read
    launch = partial(forward_call, q, keys, out, lse, where, score, config=config)
    enqueue(launch(), kept, partial(send, check, landings, words) if check.late else None)
    pairs = ((out, whole_out), (lse, whole_lse))
    spoilt = "" if check.lost or all(untouched(*pair) for pair in pairs) else "wrote beside"
    return out, lse, spoilt


def enqueue(call: Call, kept: Path | None, sender: partial[torch.cuda.Stream] | None) -> None:
    """Loads the kernel, has the keys sent, and launches it; returns when all is done."""
    launch = Launch(call, kept)
    torch.cuda.synchronize()
    if sender is not None:
        sender()
    launch.run(call.tensors)
    torch.cuda.synchronize()


def fault(check: Check, config: table.Config, kept: Path | None) -> str:
    """What is wrong, or nothing."""
    torch.manual_seed(len(check.name))
    every = check.world * check.tokens
    shapes = (check.tokens, check.heads), (every, check.key_heads), (every, check.key_heads)
    tensors = tuple(
        torch.randn(check.batch, tokens, heads, config.width, device=DEVICE).to(check.dtype)
        for tokens, heads in shapes
    )
    score = Score(config.width**-0.5, check.softcap)
    *results, spoilt = run(check, tensors, score, config, kept)
    if check.lost:
        return "" if all(bool(x.isnan().all()) for x in results) else "a lost piece was not told"
    own, *others = check.positions
    asked = partial(oracle.Inquiry, own, torch.cat([own, *others]), check.mask, score)
    truths = oracle.forward(*(x.double() for x in tensors), asked())
    plain = oracle.forward(*tensors, asked(arithmetic=check.dtype))
    said = [spoilt] if spoilt else []
    for name, got, truth, baseline in zip(("out", "lse"), results, truths, plain, strict=True):
        off = tolerance.error(got, truth)
        bound = tolerance.bounds(
            name, check.dtype, tolerance.error(baseline, truth), tolerance.size(truth)
        )
        if not off.within(bound):
            said.append(f"{name} is out by {off}, and may be by {bound}")
    return "; ".join(said)


def builds() -> Iterator[table.Build]:
    """All that is launched here."""
    for config in table.serving():
        for dtype in ("bfloat16", "float16"):
            for capped in (False, True):
                yield table.Build(config, dtype, dtype, capped, kernel="gathered.forward")


def run_all(dims: list[int], kept: Path | None) -> None:
    """Prints a line for each check of each configuration."""
    for config in table.serving():
        for check in CHECKS if config.width in dims else ():
            print(f"gathered {config}: {check.name} ... ", end="", flush=True)
            print(fault(check, config, kept) or "right", flush=True)
