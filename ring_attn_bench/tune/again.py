"""Whether launches that were timed are still right: on inputs that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ring_attn_bench.conformance.expected import Expected, answers, expect
from ring_attn_bench.conformance.faults import faults
from ring_attn_bench.contract.tunable import Kernel, TrialTensors
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.outcome import OUTPUTS
from ring_attn_bench.truth import oracle

SEED = 2
"""Other inputs than those that were timed."""
ROWS = 64
"""Of the timed length: dout is zero in all others, and so these determine every dk and dv."""
UNSEEN = 60.0
"""lse of the other rows, above any score: weights of nothing, which a dout of 0 keeps so."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What tensors hold now, and what a kernel is to make of it, at the rows that are compared."""

    rows: Tensor
    right: Expected

    def faults(self, kernel: Kernel, own: dict[str, Tensor]) -> list[str]:
        """What is wrong with a kernel's outputs, in sentences."""
        return faults(self.right, {name: self._seen(name, own[name]) for name in OUTPUTS[kernel]})

    def _seen(self, name: str, result: Tensor) -> Tensor:
        rows = self.rows.to(result.device)
        if name == "lse":
            return result[:, :, rows]
        return result if name in ("dk", "dv") else result[:, rows]


def renew(tensors: TrialTensors, mask: Mask, score: Score) -> Renewed:
    """Writes other inputs into the tensors, and says what is right for them."""
    rows, keys = tensors.rows, tensors.keys
    generator = torch.Generator(rows.q.device).manual_seed(SEED)
    for x in (rows.q, rows.dout, *keys):
        drawn = torch.randn(x.shape, generator=generator, device=x.device)
        x.copy_(drawn)
    at = oracle.sample_rows(rows.q.shape[1], ROWS, (), SEED).to(rows.q.device)
    others = torch.ones(rows.q.shape[1], dtype=torch.bool, device=rows.q.device)
    others[at] = False
    rows.dout[:, others] = 0
    own, at_keys = rows.q[:, at], torch.arange(keys.k.shape[1], device=at.device)
    answered = partial(answers, own, *keys, rows.dout[:, at], at, at_keys, mask, score)
    right = expect(rows.q.dtype, answered)
    _finish(tensors, at, right)
    return Renewed(at, right)


def _finish(tensors: TrialTensors, at: Tensor, right: Expected) -> None:
    """What a backward reads of a finished forward."""
    rows = tensors.rows
    assert rows.delta is not None  # `timing` makes it
    rows.out.zero_()
    rows.lse.fill_(UNSEEN)
    rows.delta.zero_()
    rows.out[:, at] = right.results["out"].to(rows.out.dtype)
    rows.lse[:, :, at] = right.results["lse"].to(rows.lse.dtype)
    wide = rows.delta.dtype
    delta = (rows.dout[:, at].to(wide) * rows.out[:, at].to(wide)).sum(-1)
    rows.delta[:, :, at] = delta.transpose(1, 2)


def poison(own: dict[str, Tensor]) -> None:
    """What a launch leaves unwritten shows."""
    for x in own.values():
        x.fill_(float("nan"))
