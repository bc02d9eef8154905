"""Our own Triton kernels behind the contract; Triton and the kernels are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch

from ring_attn_bench.block import Alibi, Form
from ring_attn_bench.errors import BackendUnavailable

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import Problem, Score

MAX_HEAD_DIM = 256


class TritonBackend:
    """FlashAttention-2 in Triton: any head dim up to 256, windows, GQA, softcap; deterministic."""

    name = "triton"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    needs_delta = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "cpu": {"TRITON_INTERPRET": "1"}
    }

    def __init__(self) -> None:
        if find_spec("triton") is None:
            raise BackendUnavailable(self.name, "Triton is not installed (pip install triton)")

    def interpreted(self) -> bool:
        """Whether kernels run in Triton's interpreter: right numbers, meaningless speeds."""
        import triton

        return bool(triton.knobs.runtime.interpret)

    def unsupported(self, problem: Problem) -> str | None:
        """Float64, head dims above 256, ALiBi, dropout; a CPU, or bfloat16, as `interpreted`."""
        widest = max(problem.head_dim, problem.head_dim_v)
        if problem.dtype == "float64":
            return "it computes in float32: it has no float64"
        if widest > MAX_HEAD_DIM:
            return f"it has no head_dim above {MAX_HEAD_DIM} (got {widest})"
        if problem.alibi:
            return "it has no ALiBi"
        if problem.dropout_p:
            return f"it has no dropout (dropout_p is {problem.dropout_p})"
        if self.interpreted():
            if problem.dtype == "bfloat16":
                return "Triton's interpreter multiplies bfloat16 wrongly; use float16 or float32"
        elif problem.device == "cpu":
            return (
                "it needs a CUDA device, or TRITON_INTERPRET=1 set before Python starts"
                " (correctness only)"
            )
        return None

    def version(self) -> str:
        """Triton's."""
        import triton

        return f"triton {triton.__version__}"

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
    ) -> tuple[Tensor, Tensor]:
        """One kernel; out in q's dtype."""
        from ring_attn_backends.triton.launch import forward_launch

        batch, rows, heads, _ = q.shape
        out = q.new_empty(batch, rows, heads, v.shape[-1])
        lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
        forward_launch(q, k, v, out, lse, block, score).run()
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
        """One kernel for dq, one for dk and dv, both always deterministic.

        The shares are float32, what the kernels accumulate in: a ring adds one for every step,
        and would round each of them for nothing.
        """
        from ring_attn_backends.triton.launch import backward_dkdv_launch, backward_dq_launch

        assert delta is not None  # needs_delta
        dq, dk, dv = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in (q, k, v))
        backward_dq_launch(dout, q, k, v, lse, delta, dq, block, score).run()
        backward_dkdv_launch(dout, q, k, v, lse, delta, dk, dv, block, score).run()
        return dq, dk, dv
