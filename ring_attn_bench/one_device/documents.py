"""Packed documents as one differentiable operation, by a kernel that takes them packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ring_attn_bench.backend import PackedBackend
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.problem import Documents, Score
from ring_attn_bench.ring.autocast import without_autocast
from ring_attn_bench.ring.delta import delta
from ring_attn_bench.tensors import Keys, Rows

PackedKernel = PackedBackend | OneByOne


@dataclass(frozen=True)
class DocumentsCall:
    """What is computed, and by which kernel."""

    kernel: PackedKernel
    documents: Documents
    score: Score
    deterministic: bool


class DocumentsAttention(torch.autograd.Function):
    """(q, k, v, sink, call) -> (out (T, H, E), lse (H, T)); lse is not differentiable."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sink: Tensor | None,
        call: DocumentsCall,
    ) -> tuple[Tensor, Tensor]:
        """One kernel call, then the sink's share taken off every row."""
        with without_autocast(q.device.type):
            out, lse = call.kernel.packed_forward(q, Keys(k, v), call.documents, call.score)
            if sink is not None:
                with_sink = torch.logaddexp(lse, sink.to(lse.dtype)[:, None])
                out, lse = out * torch.exp(lse - with_sink).T[..., None], with_sink
            out = out.to(q.dtype)
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
        """dq, dk, dv and dsink, each only where it is needed."""
        if dout is None:
            return None, None, None, None, None
        q, k, v, sink, out, lse = ctx.saved_tensors
        call: DocumentsCall = ctx.call
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        wants_dsink = ctx.needs_input_grad[3]
        row_sums, dsink = None, None
        with without_autocast(q.device.type):
            if call.kernel.needs_delta or wants_dsink:
                row_sums = delta(dout[None], out[None], lse.dtype)[0]
            if wants_dsink and row_sums is not None:
                weight = torch.exp(sink.to(lse.dtype)[:, None] - lse)
                dsink = -(weight * row_sums).sum(1).to(sink.dtype)
            gradients = call.kernel.packed_backward(
                Rows(q, dout, out, lse, row_sums), Keys(k, v), call.documents, call.score,
                deterministic=call.deterministic,
            )  # fmt: skip
        needed = zip(gradients, (q, k, v), ctx.needs_input_grad, strict=False)
        dq, dk, dv = (g.to(x.dtype) if needs else None for g, x, needs in needed)
        return dq, dk, dv, dsink, None
