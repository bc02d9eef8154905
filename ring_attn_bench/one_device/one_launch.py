"""Attention that is one kernel call, which most of one device is: from autograd to the kernel.

Beside a short kernel the host's time is what counts, so there is nothing in between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ring_attn_bench import launch as kernel
from ring_attn_bench.backend import Backend
from ring_attn_bench.block import Block
from ring_attn_bench.problem import Score
from ring_attn_bench.ring.autocast import without_autocast
from ring_attn_bench.ring.delta import delta
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.tensors import Keys, Rows


@dataclass(frozen=True, slots=True)
class OneLaunch:
    """The block that all queries and all keys are, and which kernel computes it."""

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

    def scored(self, score: Score) -> OneLaunch:
        """The same with another score."""
        return replace(self, score=score)


class OneLaunchAttention(torch.autograd.Function):
    """(q, k, v, call) -> (out (B, M, H, E), lse (B, H, M)); lse is not differentiable."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        q: Tensor,
        k: Tensor,
        v: Tensor,
        call: OneLaunch,
    ) -> tuple[Tensor, Tensor]:
        """out in q's dtype."""
        with without_autocast(q.device.type):
            out, lse = kernel.forward(call.backend, q, Keys(k, v), call.block, call.score)
            out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        dout: Tensor | None,
        dlse: None,
    ) -> tuple[Tensor | None, ...]:
        """dq, dk, dv, each only where it is needed."""
        if dout is None:
            return None, None, None, None
        q, k, v, out, lse = ctx.saved_tensors
        if dout.stride(-1) != 1:  # an expanded gradient, of out.sum() for one
            dout = dout.contiguous()
        with without_autocast(q.device.type):
            gradients = _gradients(ctx.call, dout, q, k, v, out, lse)
        needs = ctx.needs_input_grad
        return *[x if need else None for x, need in zip(gradients, needs, strict=False)], None


def _gradients(
    call: OneLaunch, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, ...]:
    """dq, dk, dv in the dtypes of q, k, v."""
    row_sums = delta(dout, out, lse.dtype) if call.backend.needs_delta else None
    shares = kernel.backward(
        call.backend, Rows(q, dout, out, lse, row_sums), Keys(k, v), call.block, call.score,
        deterministic=call.deterministic,
    )  # fmt: skip
    return tuple([share.to(x.dtype) for share, x in zip(shares, (q, k, v), strict=True)])
