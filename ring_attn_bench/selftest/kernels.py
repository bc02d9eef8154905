"""Backends with one fault each: the reference, spoilt in one place."""

from __future__ import annotations

import ctypes
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.positions import Range, count, part
from ring_attn_bench.plan.problem import Problem, Score

Results = tuple[Tensor, Tensor]
"""out and lse."""


class Sound:
    """The reference as it is, behind a seam of its own: each fault is a change of this."""

    name = "planted"
    forms = frozenset(Form)
    alibi = Alibi.POSITION
    needs_delta = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        self._sound = registry.load("reference")

    def unsupported(self, problem: Problem) -> str | None:
        """What the reference refuses."""
        return self._sound.unsupported(problem)

    def version(self) -> str:
        """The version of the reference."""
        return self._sound.version()

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out and lse as the reference has them."""
        return self._sound.forward(q, keys, block, score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Shares of dq, dk and dv as the reference has them."""
        return self._sound.backward(rows, keys, block, score, deterministic=deterministic)


class Log2Lse(Sound):
    """Its lse is a logarithm of base 2."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Lse to base 2, and the right out."""
        out, lse = super().forward(q, keys, block, score)
        return out, lse / math.log(2)


class LostDiagonal(Sound):
    """No query sees its own key."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out and lse without the keys of the diagonal."""
        return super().forward(q, keys, _below_diagonal(block), score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Shares without the keys of the diagonal."""
        block = _below_diagonal(block)
        return super().backward(rows, keys, block, score, deterministic=deterministic)


def _below_diagonal(block: Block) -> Block:
    return replace(block, band=replace(block.band, low=1)) if block.band.low == 0 else block


class Bfloat16Accumulator(Sound):
    """Adds tiles of keys up in bfloat16."""

    tile = 16

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out and lse, summed tile by tile as kernels go."""
        out, lse = self._tile(q, keys, block, score, 0)
        for start in range(self.tile, count(block.keys), self.tile):
            new_out, new_lse = self._tile(q, keys, block, score, start)
            both = torch.logaddexp(lse, new_lse)
            old, new = (_weight(x, both) for x in (lse, new_lse))
            out, lse = (out * old + new_out * new).bfloat16().float(), both
        return out.to(q.dtype), lse

    def _tile(self, q: Tensor, keys: Keys, block: Block, score: Score, start: int) -> Results:
        tokens = Range(start, min(start + self.tile, count(block.keys)))
        tile = replace(block, keys=part(block.keys, tokens))
        out, lse = super().forward(q, keys.part(tokens), tile, score)
        return out.float(), lse


def _weight(lse: Tensor, both: Tensor) -> Tensor:
    weight = torch.where(both.isneginf(), 0.0, torch.exp(lse - both))
    return weight.transpose(1, 2)[..., None]


class OneBatch(Sound):
    """Every entry of a batch gets the keys of the first."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out and lse over the first entry's keys."""
        return super().forward(q, _of_first(keys), block, score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Shares over the first entry's keys."""
        return super().backward(rows, _of_first(keys), block, score, deterministic=deterministic)


def _of_first(keys: Keys) -> Keys:
    return Keys(*(x[:1].expand_as(x) for x in keys))


class LastHead(Sound):
    """The out of the last head is a fortieth too large."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out that is right in all heads but the last."""
        out, lse = super().forward(q, keys, block, score)
        out[:, :, -1] *= 1 + 1 / 40
        return out, lse


class SecondCall(Sound):
    """The second call on a block is wrong, those before and after are right."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Counter[Block] = Counter()

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out that is wrong once for each block."""
        out, lse = super().forward(q, keys, block, score)
        self._calls[block] += 1
        return (out * 1.05 if self._calls[block] == 2 else out), lse


class NanRow(Sound):
    """One row of the sequence is NaN."""

    position = 77

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """Out with a NaN where a query's position is that one."""
        out, lse = super().forward(q, keys, block, score)
        at = [x for span in block.rows for x in span.positions()]
        if self.position in at:
            out[0, at.index(self.position), 0] = math.nan
        return out, lse


class HeadsMixed(Sound):
    """One row of the sequence has a little of the neighbouring head in its own."""

    position = 77

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """A thousandth of it, where a query's position is that one."""
        out, lse = super().forward(q, keys, block, score)
        at = [x for span in block.rows for x in span.positions()]
        if self.position in at:
            row = out[:, at.index(self.position)]
            row += 1e-3 * row.roll(1, dims=1)
        return out, lse


class Crash(Sound):
    """Reads where there is no memory."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """No result: its process ends."""
        ctypes.string_at(1)
        raise AssertionError("it is still there")


class Hang(Sound):
    """Never answers."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """No result: it sleeps for ever."""
        while True:
            time.sleep(1)


class TooLarge(Sound):
    """Asks for a pebibyte."""

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """No result: what it asks for fits nowhere."""
        torch.empty(2**50, dtype=torch.uint8, device=q.device)
        return super().forward(q, keys, block, score)


class Raises(Sound):
    """Raises on the last rank while the others wait for it."""

    message = "planted: this rank has had enough"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> Results:
        """A result on all ranks but the last, which raises."""
        if dist.get_rank() == dist.get_world_size() - 1:
            raise RuntimeError(self.message)
        return super().forward(q, keys, block, score)
