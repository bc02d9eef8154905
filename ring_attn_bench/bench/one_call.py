"""The same kernel without a ring: what it gets right alone, and the pace it keeps alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ring_attn_bench.bench import packed_call
from ring_attn_bench.bench.inputs import Inputs, mask_of, score_of
from ring_attn_bench.calls import kernel
from ring_attn_bench.calls.delta import delta
from ring_attn_bench.contract.backend import Backend, abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.lower import chunks, lower
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.records.record import Case
from ring_attn_bench.ring.packing import accumulator_dtype


@dataclass(frozen=True)
class OneCall:
    """A kernel's single call over a whole sequence of some length."""

    backend: Backend
    block: Block
    score: Score
    deterministic: bool

    def forward(self, x: Inputs) -> tuple[Tensor, Tensor]:
        """out and lse of the one GPU's share."""
        return kernel.forward(self.backend, x.q, Keys(x.k, x.v), self.block, self.score)

    def backward(self, x: Inputs, out: Tensor, lse: Tensor) -> Sums:
        """dq, dk, dv of the one GPU's share."""
        wide = accumulator_dtype(out.dtype)
        row_sums = delta(x.dout, out, wide) if self.backend.needs_delta else None
        rows, keys = Rows(x.q, x.dout, out, lse, row_sums), Keys(x.k, x.v)
        return kernel.backward(
            self.backend, rows, keys, self.block, self.score, deterministic=self.deterministic
        )


class Alone(Protocol):
    """A kernel's call without a ring."""

    def forward(self, x: Inputs) -> tuple[Tensor, Tensor]:
        """out and lse."""
        ...

    def backward(self, x: Inputs, out: Tensor, lse: Tensor) -> Sums:
        """dq, dk and dv."""
        ...


def make(case: Case, backend: Backend, length: int, device: torch.device) -> Alone | None:
    """The kernel over a sequence, or the documents, of `length` tokens; None if that is not one
    call of it."""
    if case.documents is not None:
        packed = packed_call.make(case, backend, device, length)
        return packed if packed.is_one_call else None
    tokens = chunks((Span(0, length),))
    pieces = lower(tokens, tokens, mask_of(case).band, abilities(backend, alibi=False))
    if isinstance(pieces, str) or len(pieces) != 1:
        return None
    return OneCall(backend, pieces[0].block, score_of(case), case.deterministic)
