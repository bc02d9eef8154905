"""The ring as one differentiable operation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ring_attn_bench.problem import Score
from ring_attn_bench.ring import run
from ring_attn_bench.ring.autocast import without_autocast
from ring_attn_bench.ring.delta import delta
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.link import Transport


@dataclass(frozen=True)
class RingCall:
    """What a call computes, and over which ranks."""

    job: Job
    context: Transport

    def scored(self, score: Score) -> RingCall:
        """The same with another score."""
        return replace(self, job=replace(self.job, score=score))


class RingAttention(torch.autograd.Function):
    """(q, k, v, sink, call) -> (out, lse); lse is not differentiable.

    The backward is a collective too: every rank runs it in full, whichever of its own inputs
    need a gradient, because the other ranks' gradients pass through it.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        call: RingCall,
    ) -> tuple[Tensor, Tensor]:
        """This rank's out (B, M, H, E) and lse (B, H, M)."""
        with without_autocast(q.device.type):
            out, lse = run.forward(call.job, call.context, q, k, v, sink)
        ctx.save_for_backward(q, k, v, sink, out, lse)
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
        """This rank's dq, dk, dv and its share of dsink, each only where it is needed."""
        q, k, v, sink, out, lse = ctx.saved_tensors
        if dout is None:  # this rank's out was not used; the others' gradients still pass
            dout = torch.zeros_like(out)
        if dout.stride(-1) != 1:  # an expanded gradient, of out.sum() for one
            dout = dout.contiguous()
        with without_autocast(q.device.type):
            gradients = run.backward(ctx.call.job, ctx.call.context, dout, q, k, v, out, lse)
            dsink = _sink_gradient(sink, dout, out, lse) if ctx.needs_input_grad[3] else None
        needed = zip(gradients, ctx.needs_input_grad, strict=False)
        dq, dk, dv = (gradient if needs else None for gradient, needs in needed)
        return dq, dk, dv, dsink, None


def _sink_gradient(sink: Tensor, dout: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """-sum over rows of p_sink * delta: the sink's value is 0, so its dp is too."""
    weight = torch.exp(sink.to(lse.dtype)[None, :, None] - lse)
    return -(weight * delta(dout, out, lse.dtype)).sum((0, 2)).to(sink.dtype)
