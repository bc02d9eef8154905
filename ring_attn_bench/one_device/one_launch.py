"""Attention that is one kernel call, which most of one device is.

Beside a short kernel the host's time is what counts, so nothing stands between the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.calls.attend import Given
from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.ring.forward import Job


@dataclass(frozen=True, slots=True)
class OneLaunch:
    """The block that all queries and all keys are, and which kernel computes it: a `Call`."""

    backend: Backend
    block: Block
    score: Score
    deterministic: bool

    @classmethod
    def of(cls, job: Job) -> OneLaunch | None:
        """The one launch of a lone rank's job, or None if it has more, or tokens without any."""
        plan = job.plan
        if len(plan.launches) != 1 or plan.rows_start_at_zero or plan.unfinished:
            return None
        ((step,), (launch,)) = plan.steps, plan.launches
        if step.keys_start_at_zero:
            return None
        return cls(job.backend, launch.block, job.score, job.deterministic)

    keeps: ClassVar[bool] = False

    @property
    def needs_delta(self) -> bool:
        """Whether the kernel reads delta."""
        return self.backend.needs_delta

    def seeded(self, seed: int) -> OneLaunch:
        """The same call with another seed for dropout."""
        return replace(self, score=replace(self.score, dropout_seed=seed))

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """out (B, M, H, E) in q's dtype, and lse (B, H, M)."""
        score = given.score(self.score)
        out, lse = kernel.forward(self.backend, given.q, given.keys, self.block, score)
        return out.to(given.q.dtype), lse

    def backward(self, given: Given, rows: Rows, dlse: Tensor | None) -> Sums:
        """dq, dk, dv of the launch."""
        if dlse is None:
            return self._launched(rows, given.keys, given.score(self.score))
        return with_lse(self._launched, rows, given.keys, given.score(self.score), dlse)

    def _launched(self, rows: Rows, keys: Keys, score: Score) -> Sums:
        return kernel.backward(
            self.backend, rows, keys, self.block, score, deterministic=self.deterministic
        )
