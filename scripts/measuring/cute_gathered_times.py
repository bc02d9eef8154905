"""Times of the one launch over gathered keys beside one call of about as many pairs.

A rank of a zigzag ring under a causal mask, whose keys have all landed, bfloat16, 16 query and 4
key heads of 128. The call beside it is causal and of one sequence, with as many pairs up to a row
of them. Both are launched as kept calls are; medians of calls in turns, from a cold L2. dk and dv
of own keys are float32 in the one launch, all else is bfloat16, but dq that is added to, in two
launches and in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from measuring.cute import CAUSAL, DEVICE, ROUNDS
from measuring.cute_landing import Check
from measuring.turns import in_turns
from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.arguments import adding_call as plain_adding
from ring_attn_backends.cute.arguments import dkdv_call as plain_dkdv
from ring_attn_backends.cute.arguments import dq_call as plain_dq
from ring_attn_backends.cute.arguments import forward_call as plain_forward
from ring_attn_backends.cute.gathered.abreast import abreast
from ring_attn_backends.cute.gathered.gradients import adding_call, dkdv_call, dq_call
from ring_attn_backends.cute.gathered.launch import forward_call
from ring_attn_backends.cute.launch import Launch
from tabulate import tabulate
from torch import Tensor

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Running, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.gathered import Gathered
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Score

KERNELS = "forward", "dk, dv", "dq", "all, adding to dq"
HEADS, KEY_HEADS, DIM = 16, 4, 128
SCORE = Score(DIM**-0.5)
LENGTHS = 8192, 16384
"""Tokens of a rank."""


def drawn(tokens: int, heads: int) -> Tensor:
    """Random numbers (1, tokens, heads, D)."""
    return torch.randn(1, tokens, heads, DIM, device=DEVICE, dtype=torch.bfloat16)


def rows_of(q: Tensor, call: Callable[[Tensor, Tensor], Call], kept: Path | None) -> Rows:
    """What a backward reads, of a forward that this makes into out and lse."""
    out = torch.empty_like(q)
    lse = torch.empty(1, q.shape[2], q.shape[1], device=DEVICE)
    told = call(out, lse)
    Launch(told, kept).run(told.tensors)
    dout = torch.randn_like(q)
    delta = (dout.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    return Rows(q, dout, out, lse, delta)


def gathered_calls(
    where: Gathered, tokens: int, landed: int, kept: Path | None
) -> Iterator[list[Call]]:
    """The launches of a rank, whose keys have landed."""
    own, others = (Keys(*(drawn(n, KEY_HEADS) for _ in "kv")) for n in (tokens, landed))
    keys, q = Gathering(own, others), drawn(tokens, HEADS)
    rows = rows_of(q, lambda out, lse: forward_call(q, keys, out, lse, where, SCORE), kept)
    yield [forward_call(q, keys, torch.empty_like(q), rows.lse.clone(), where, SCORE)]
    of_own, of_others = Keys(*map(torch.Tensor.float, own)), Keys(*map(torch.empty_like, others))
    yield [dkdv_call(rows, keys, of_own, of_others, where, SCORE, own_first=False)]
    yield [dq_call(rows, keys, torch.empty_like(q), where, SCORE)]
    add = partial(adding_call, rows, keys, torch.zeros_like(q, dtype=torch.float32), of_own,
                  of_others, where, SCORE, own_first=True)  # fmt: skip
    yield [add(part=0), add(part=1)]


def plain_calls(tokens: int, kept: Path | None) -> Iterator[list[Call]]:
    """The launches of one causal sequence."""
    keys, q = Keys(*(drawn(tokens, KEY_HEADS) for _ in "kv")), drawn(tokens, HEADS)
    block = Block((Span(0, tokens),), (Span(0, tokens),), CAUSAL.band)

    def forward(out: Tensor, lse: Tensor) -> Call:
        return plain_forward(q, keys, Running(out, lse), block, SCORE, first=True)

    rows = rows_of(q, forward, kept)
    yield [forward(torch.empty_like(q), rows.lse.clone())]
    dk, dv = map(torch.empty_like, keys)
    yield [plain_dkdv(rows, keys, dk, dv, block, SCORE, first=True)]
    yield [plain_dq(rows, keys, torch.empty_like(q), block, SCORE, first=True)]
    sums = Sums(torch.zeros_like(q, dtype=torch.float32), dk, dv)
    yield [plain_adding(rows, keys, sums, block, SCORE, first=True)]


def launched(calls: list[Call], kept: Path | None) -> Callable[[], None]:
    """Launches them, two abreast, as the backend does."""
    first, *others = (partial(Launch(call, kept).run, call.tensors) for call in calls)
    if not others:
        return first
    (second,) = others
    return lambda: abreast(calls[0].tensors[0].device, first, lambda: None, second)


def print_times(kept: Path | None) -> None:
    """A table: tokens of a rank, microseconds of both, and their ratio by pair."""
    lines = []
    for world in (2, 3):
        for tokens in LENGTHS:
            check = Check("times", tokens, world=world)
            where = check.where
            alone = isqrt(2 * where.area)
            both = (
                gathered_calls(where, tokens, (world - 1) * tokens, kept),
                plain_calls(alone, kept),
            )
            calls = {
                (name, side): launched(made, kept)
                for side, each in enumerate(both)
                for name, made in zip(KERNELS, each, strict=True)
            }
            times = in_turns({f"{name} {side}": run for (name, side), run in calls.items()}, ROUNDS)
            by_pair = alone * (alone + 1) / 2 / where.area
            for name in KERNELS:
                ours, theirs = (1e3 * times[f"{name} {side}"] for side in (0, 1))
                ratio = f"{ours / theirs * by_pair:.3f}"
                lines.append([name, world, tokens, f"{ours:.0f}", f"{theirs:.0f}", ratio])
    names = ["kernel", "ranks", "tokens of a rank", "one launch, us", "one call, us"]
    print(tabulate(lines, [*names, "ratio by pair"], disable_numparse=True))
