"""Whether launches that were timed are still right: on inputs that they have not seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.conformance.faults import faults
from ring_attn_bench.conformance.truth import Results, Truth, bounds
from ring_attn_bench.contract.tunable import Kernel, TrialTensors
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.outcome import OUTPUTS
from ring_attn_bench.truth import oracle, tolerance

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
    right: Truth
    dtype: torch.dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        """The inputs'."""
        return self.dtype

    @property
    def wide_dtype(self) -> torch.dtype:
        """At least float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def faults(self, kernel: Kernel, own: dict[str, Tensor]) -> list[str]:
        """What is wrong with a kernel's outputs, in sentences."""
        return faults(
            self, self.right, {name: self._seen(name, own[name]) for name in OUTPUTS[kernel]}
        )

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
    right = _truth(tensors, at, mask, score)
    _finish(tensors, at, right)
    return Renewed(at, right, rows.q.dtype)


def _truth(tensors: TrialTensors, at: Tensor, mask: Mask, score: Score) -> Truth:
    dtype = tensors.rows.q.dtype
    exact = _answers(tensors, at, mask, score, torch.float64)
    yardstick = tolerance.baseline_arithmetic(dtype)
    plain = [_answers(tensors, at, mask, score, yardstick)]
    if yardstick is torch.float32:
        plain.append(_answers(tensors, at, mask, score, yardstick, in_order=True))
    without = _answers(tensors, at, mask, score, torch.float64, delta=False)
    uncancelled = {name: tolerance.size(without[name]).max_abs for name in ("dq", "dk")}
    return Truth(exact, bounds(dtype, exact, plain, uncancelled))


def _answers(
    tensors: TrialTensors,
    at: Tensor,
    mask: Mask,
    score: Score,
    arithmetic: torch.dtype,
    *,
    in_order: bool = False,
    delta: bool = True,
) -> Results:
    """Of the rows `at`; without delta, which out 0 gives, for `tolerance.bounds`."""
    rows, (k, v) = tensors.rows, tensors.keys
    q, dout = rows.q[:, at], rows.dout[:, at]
    keys = torch.arange(k.shape[1], device=k.device)
    out, lse = oracle.forward(
        q, k, v, at, keys, mask, score, arithmetic=arithmetic, in_order=in_order
    )
    given = out if delta else torch.zeros_like(out)
    gradients = oracle.backward(
        dout, q, k, v, given, lse, at, keys, mask, score, arithmetic=arithmetic, in_order=in_order
    )
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def _finish(tensors: TrialTensors, at: Tensor, right: Truth) -> None:
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
