"""torch's own flash attention, called below SDPA: FlashAttention-2 on CUDA, a tiled loop on CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ring_attn_bench.block import Alibi, Block, Form
from ring_attn_bench.problem import Problem, Score

_ops = torch.ops.aten


class AtenBackend:
    """torch's own flash attention: FlashAttention-2 on CUDA, a tiled loop on CPU."""

    name = "aten"
    forms = frozenset({Form.FULL, Form.CAUSAL})
    alibi = Alibi.NONE
    needs_delta = False
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def unsupported(self, problem: Problem) -> str | None:
        """What its operators have no argument for, and what their kernels were not built for."""
        if problem.dropout_p:
            return f"it is called without dropout (dropout_p is {problem.dropout_p})"
        if problem.softcap:
            return f"it has no softcap (softcap is {problem.softcap})"
        if problem.alibi:
            return "its backward has no ALiBi"
        if problem.head_dim != problem.head_dim_v:
            return f"q and v must have one head dim (got {problem.head_dim}, {problem.head_dim_v})"
        return _unsupported_on_cuda(problem) if problem.device == "cuda" else None

    def version(self) -> str:
        """torch's."""
        return f"torch {torch.__version__}"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
    ) -> tuple[Tensor, Tensor]:
        """One call on CUDA; on CPU one for each query head of a group."""
        causal, scale = block.form is Form.CAUSAL, score.softmax_scale
        if not q.is_cuda:
            return _forward_on_cpu(q, k, v, causal, scale)
        out, lse, *_ = _ops._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=scale
        )
        return out, lse

    def backward(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        delta: Tensor | None,
        block: Block,
        score: Score,
        *,
        deterministic: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The kernels form delta themselves, from the whole row's out."""
        causal, scale = block.form is Form.CAUSAL, score.softmax_scale
        dout, out = dout.to(q.dtype), out.to(q.dtype)
        if not q.is_cuda:
            return _backward_on_cpu((dout, q, k, v, out), lse, causal, scale)
        no_dropout = q.new_empty((), dtype=torch.int64)  # the two random states, not read at p = 0
        with _deterministic_mode(deterministic):
            dq, dk, dv = _ops._flash_attention_backward(
                dout, q, k, v, out,
                lse.contiguous(),  # read by pointer, whatever its strides
                None, None, q.shape[1], k.shape[1], 0.0, causal, no_dropout, no_dropout,
                scale=scale,
            )  # fmt: skip
        return dq, dk, dv


def _unsupported_on_cuda(problem: Problem) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} was built without flash attention"
    if torch.cuda.get_device_capability() < (8, 0):
        return "its CUDA kernel needs sm_80 or newer"
    if problem.dtype not in {"float16", "bfloat16"}:
        return f"its CUDA kernel computes in float16 and bfloat16 only, not {problem.dtype}"
    if problem.head_dim > 256 or problem.head_dim % 8:
        return (
            f"its CUDA kernel needs a head dim of at most 256, a multiple of 8 ({problem.head_dim})"
        )
    return None


@contextmanager
def _deterministic_mode(wanted: bool) -> Iterator[None]:
    """The operator has no argument for it: it asks torch's global switch, which is put back."""
    if not wanted:
        yield
        return
    memory: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")  # with "warn" the kernel stays as it is
    memory.fill_uninitialized_memory = False  # would cost a write of every gradient
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.set_deterministic_debug_mode(mode)


def _forward_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    keys, values = k.transpose(1, 2), v.transpose(1, 2)
    forward = _ops._scaled_dot_product_flash_attention_for_cpu
    parts = [
        forward(queries, keys, values, 0.0, causal, scale=scale)
        for queries in _one_head_of_each_group(q, k.shape[2])
    ]
    out = torch.stack([out for out, _ in parts], dim=2).flatten(1, 2).transpose(1, 2)
    return out, torch.stack([lse for _, lse in parts], dim=2).flatten(1, 2)


def _backward_on_cpu(
    tensors: tuple[Tensor, ...], lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dout, q, k, v, out = tensors
    keys, values = k.transpose(1, 2), v.transpose(1, 2)
    split = (_one_head_of_each_group(x, k.shape[2]) for x in (dout, q, out, lse.transpose(1, 2)))
    backward = _ops._scaled_dot_product_flash_attention_for_cpu_backward
    shares = [
        backward(do, queries, keys, values, o, stats, 0.0, causal, scale=scale)
        for do, queries, o, stats in zip(*split, strict=True)
    ]
    dq = torch.stack([share[0] for share in shares], dim=2).flatten(1, 2)
    wide = torch.promote_types(q.dtype, torch.float32)
    dk, dv = (sum((share[i].to(wide) for share in shares), torch.zeros(())) for i in (1, 2))
    return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)


def _one_head_of_each_group(x: Tensor, groups: int) -> list[Tensor]:
    """Heads first: the kernel wants as many query heads as key heads, and keys cost memory."""
    group_size = x.shape[2] // groups
    return [x[:, :, first::group_size].transpose(1, 2) for first in range(group_size)]
