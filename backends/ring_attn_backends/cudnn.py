"""cuDNN's fused attention as torch ships it, called below SDPA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_backends.shared.padding import cropped, fitted, rounded
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.problem import Problem, Score

_cudnn = torch.ops.aten


class CudnnBackend:
    """cuDNN's fused attention as torch ships it: Ampere and newer, fp16 and bf16."""

    name = "cudnn"
    # its causal mask starts at the top left, bottom right elsewhere: the same for a square block
    forms = frozenset({Form.FULL, Form.CAUSAL})
    alibi = Alibi.NONE
    needs_delta = False
    rounds_gradients = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")
        if torch.version.hip is not None or not torch.backends.cudnn.is_available():
            raise BackendUnavailable(self.name, "this torch was built without cuDNN")

    def unsupported(self, problem: Problem) -> str | None:
        """What torch's operator does not pass on, and what its kernels were not built for."""
        if problem.device != "cuda":
            return "it runs on CUDA only"
        if problem.dtype not in {"float16", "bfloat16"}:
            return f"it computes in float16 and bfloat16 only, not {problem.dtype}"
        if problem.dropout_p:
            return "it has no dropout over a single row, which only some ranks may be given"
        if problem.packed:
            return "it is called without packed documents, which are to be longer than 128 there"
        if problem.softcap:
            return f"torch's operator for it has no softcap (softcap is {problem.softcap})"
        if problem.alibi:
            return "torch's operator for it has no ALiBi"
        if problem.deterministic:
            return "torch does not pass determinism on to it"
        dim = max(problem.head_dim, problem.head_dim_v)
        if dim > 128:
            return f"it is used with head dims of at most 128 (got {dim})"
        if torch.cuda.get_device_capability() < (8, 0):
            return "it needs sm_80 or newer"
        return None

    def version(self) -> str:
        """cuDNN's, and that of the torch it is called through."""
        return f"cudnn {torch.backends.cudnn.version()}, torch {torch.__version__}"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """One call; out and lse as the contract has them."""
        causal, twice = block.form is Form.CAUSAL, keys.k.shape[1] == 1
        k, v = (_two_keys(x) if twice else _wide(x) for x in keys)
        out, lse, *_ = _forward(_wide(q), k, v, causal, score.softmax_scale)
        lse = lse.reshape(lse.shape[:3])
        return out.transpose(1, 2)[..., : keys.v.shape[-1]], lse - math.log(2) if twice else lse

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """The kernel forms delta itself, from the whole row's out."""
        q, dout, out, lse, _ = rows
        causal, twice = block.form is Form.CAUSAL, keys.k.shape[1] == 1
        # torch keeps its cuDNN graphs by the shapes and strides of q, k, v alone: out, dout and
        # lse must have the same strides in every call, or a later one is read by an earlier's
        dout, out = (_wide(x.to(q.dtype)).contiguous() for x in (dout, out))
        k, v = (_two_keys(x) if twice else _wide(x) for x in keys)
        lse = (lse + math.log(2) if twice else lse).contiguous()
        if _lse_dims(q.device) == 4:
            lse = lse[..., None]
        no_dropout = q.new_empty((), dtype=torch.int64)  # the two random states, not read at p = 0
        gradients = _cudnn._scaled_dot_product_cudnn_attention_backward(
            *(x.transpose(1, 2) for x in (dout, _wide(q), k, v, out)), lse,
            no_dropout, no_dropout, None, None, None, q.shape[1], k.shape[1], 0.0, causal,
            scale=score.softmax_scale,
        )  # fmt: skip
        dq, dk, dv = (x.transpose(1, 2) for x in gradients)
        if twice:
            dk, dv = dk.sum(1, keepdim=True), dv.sum(1, keepdim=True)
        return cropped((dq, dk, dv), keys)


def _wide(x: Tensor) -> Tensor:
    return fitted(x, rounded(x.shape[-1], 8))


def _two_keys(x: Tensor) -> Tensor:
    """A lone key twice: cuDNN has no attention over one. Its block is a full one.

    Both halves of the softmax are alike: out is the same, lse larger by log 2, and each half's
    gradient is half of the key's where the row's lse is larger by as much.
    """
    return torch.cat([_wide(x)] * 2, dim=1)


def _forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, ...]:
    """torch's operator with its log-sum-exp, heads first in and out."""
    result: tuple[Tensor, ...] = _cudnn._scaled_dot_product_cudnn_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), None, True, 0.0, causal, False, scale=scale
    )
    return result


@cache
def _lse_dims(device: torch.device) -> int:
    """3 or 4: torch's operators changed their mind, but backward takes what forward gives."""
    probe = torch.zeros(1, 64, 1, 64, dtype=torch.float16, device=device)
    return _forward(probe, probe, probe, False, 1.0)[1].dim()
