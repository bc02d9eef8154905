"""The flash-attn-4 package: FlashAttention in CuTe DSL, for Hopper and datacenter Blackwell."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_bench.block import Alibi, Block, Form
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.problem import Problem, Score

_ARCHITECTURES = (9, 10, 11)  # consumer Blackwell (12) lacks softcap and determinism in backward


class FlashAttn4Backend:
    """The flash-attn-4 package (CuTe DSL): Hopper and datacenter Blackwell, fp16 and bf16."""

    name = "flash_attn_4"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    needs_delta = False
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        try:
            self._package = import_module("flash_attn.cute.interface")
        except Exception as error:  # the package and its compiler break each other now and then
            reason = f"importing flash_attn.cute failed with {type(error).__name__}: {error}"
            command = "pip install 'flash-attn-4[cu13]==4.0.0b36'"
            raise BackendUnavailable(self.name, f"{reason}; try: {command}") from error
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")

    def unsupported(self, problem: Problem) -> str | None:
        """What the package has no argument for, and what its kernels cannot hold."""
        if problem.device != "cuda":
            return "it runs on CUDA only"
        if problem.dtype not in {"float16", "bfloat16"}:
            return f"it computes in float16 and bfloat16 only, not {problem.dtype}"
        if problem.dropout_p:
            return f"it has no dropout (dropout_p is {problem.dropout_p})"
        if problem.alibi:
            return "it has no ALiBi"
        architecture, _ = torch.cuda.get_device_capability()
        if architecture not in _ARCHITECTURES:
            return f"it is used on sm_90, sm_100 and sm_110 only, not on sm_{architecture}x"
        dims = problem.head_dim, problem.head_dim_v
        if problem.backward and problem.group_size > 1 and dims[0] != dims[1]:
            return f"with fewer key heads its backward needs one head dim for q and v (got {dims})"
        if problem.backward and any(dim % 32 for dim in dims):
            # seen on an H200 with 4.0.0b36 at 40 and 80: dq, dk and dv of no relation to the truth
            return f"its gradients are wrong at head dims that 32 does not divide (got {dims})"
        try:
            self._package._validate_head_dims(*dims, architecture, 8)  # 8 elements are 16 bytes
        except AssertionError as error:
            return str(error)
        return None

    def version(self) -> str:
        """The package's, and the compiler's that builds its kernels."""
        return (
            f"flash-attn-4 {version('flash-attn-4')}, cutlass-dsl {version('nvidia-cutlass-dsl')}"
        )

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, block: Block, score: Score
    ) -> tuple[Tensor, Tensor]:
        """One call."""
        # five values in 4.0.0b36, two before
        out, lse, *_ = self._package._flash_attn_fwd(
            q, k, v, return_lse=True, **_options(block, score)
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
        """The package forms delta itself, from the whole row's out."""
        dq, dk, dv = self._package._flash_attn_bwd(
            q, k, v, out.to(q.dtype), dout.to(q.dtype),
            lse.contiguous(),  # its preprocessing assumes dense rows
            deterministic=deterministic, **_options(block, score),
        )  # fmt: skip
        return dq, dk, dv


def _options(block: Block, score: Score) -> dict[str, float | bool | int | None]:
    """Mask and scores in the package's words."""
    left, right = block.window
    return {
        "softmax_scale": score.softmax_scale,
        "softcap": score.softcap,
        "causal": block.form is Form.CAUSAL,
        "window_size_left": left,
        "window_size_right": right,
    }
