"""Random inputs of a case: the same on every rank, cut as the partition says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.record import Case


@dataclass(frozen=True)
class Inputs:
    """q, dout (B, S, H, D) and k, v (B, S, G, D) of a whole sequence, or of one rank's tokens."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor

    def at(self, positions: Tensor) -> Inputs:
        """The tokens at these positions, as a copy."""
        q, k, v, dout = (x.index_select(1, positions) for x in self.tensors)
        return Inputs(q, k, v, dout)

    def part(self, tokens: slice) -> Inputs:
        """Some tokens in a row, as a view."""
        q, k, v, dout = (x[:, tokens] for x in self.tensors)
        return Inputs(q, k, v, dout)

    def of_key_head(self, head: int) -> Inputs:
        """One key head and the query heads that read it, as a view."""
        group = self.q.shape[2] // self.k.shape[2]
        readers = slice(head * group, (head + 1) * group)
        one = slice(head, head + 1)
        return Inputs(
            self.q[:, :, readers], self.k[:, :, one], self.v[:, :, one], self.dout[:, :, readers]
        )

    @property
    def keys(self) -> Keys:
        """k and v."""
        return Keys(self.k, self.v)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and dout."""
        return self.q, self.k, self.v, self.dout


def make(case: Case, seed: int, device: torch.device) -> Inputs:
    """Standard normal inputs. Every rank draws all of them from the seed, so they agree.

    Normal, not zeros: matrix units draw less power on zeros and run up to 13 % faster.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    tokens = (case.batch, case.seqlen_total)
    heads = (case.heads_q, case.heads_kv, case.heads_kv, case.heads_q)
    dtype = dtype_of(case)
    # drawn in float32 so that every dtype sees the same numbers, rounded
    q, k, v, dout = (
        torch.randn(*tokens, h, case.head_dim, generator=generator, device=device).to(dtype)
        for h in heads
    )
    return Inputs(q, k, v, dout)


def of_rank(case: Case, seed: int, device: torch.device, *, backward: bool) -> Inputs:
    """Inputs of one rank's tokens, drawn in their dtype: nothing beside them takes memory.

    Without a backward, whose input dout is, that is one number that looks like many.
    """
    generator = torch.Generator(device=device).manual_seed(seed)
    tokens, dtype = (case.batch, case.seqlen_per_gpu), dtype_of(case)
    heads = (case.heads_q, case.heads_kv, case.heads_kv)
    q, k, v = (
        torch.randn(*tokens, h, case.head_dim, generator=generator, device=device, dtype=dtype)
        for h in heads
    )
    if not backward:
        return Inputs(q, k, v, torch.zeros((), device=device, dtype=dtype).expand_as(q))
    dout = torch.randn(q.shape, generator=generator, device=device, dtype=dtype)
    return Inputs(q, k, v, dout)


def dtype_of(case: Case) -> torch.dtype:
    """The case's dtype as torch's."""
    dtype: torch.dtype = getattr(torch, case.dtype)
    return dtype


def mask_of(case: Case) -> Mask:
    """The case's mask."""
    return Mask.from_window_size(case.causal, case.window)


def score_of(case: Case) -> Score:
    """The case's score, with the default scale."""
    return Score(case.head_dim**-0.5, case.softcap)
