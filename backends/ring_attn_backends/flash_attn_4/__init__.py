"""The flash-attn-4 package: FlashAttention in CuTe DSL, for Hopper and datacenter Blackwell."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor

from ring_attn_backends.flash_attn_4 import cache
from ring_attn_backends.shared.calls import ByCalls, FlashCall
from ring_attn_backends.shared.padding import cropped, ended, fitted, rounded
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Problem

_ARCHITECTURES = (9, 10, 11)  # consumer Blackwell (12) lacks softcap and determinism in backward
_MAX_HEAD_DIM = 256

_FORWARD_STEP = 8  # 16 bytes
_BACKWARD_STEP = 32
"""Seen on an H200 with 4.0.0b36 at head dims 40 and 80: dq, dk and dv of no relation to the truth,
and right ones at every multiple of 32."""


class FlashAttn4Backend(ByCalls):
    """The flash-attn-4 package (CuTe DSL): Hopper and datacenter Blackwell, fp16 and bf16."""

    name = "flash_attn_4"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    needs_delta = False
    rounds_gradients = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        try:
            self._package = import_module("flash_attn.cute.interface")
        except Exception as error:  # the package and its compiler break each other now and then
            reason = f"importing flash_attn.cute failed with {type(error).__name__}: {error}"
            raise BackendUnavailable(
                self.name, f"{reason}; try: {COMMANDS['flash_attn_4']}"
            ) from error
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
        architecture = _architecture()
        if architecture not in _ARCHITECTURES:
            return f"it is used on sm_90, sm_100 and sm_110 only, not on sm_{architecture}x"
        dims = problem.head_dim, problem.head_dim_v
        if max(dims) > _MAX_HEAD_DIM:
            return f"it has head dims of at most {_MAX_HEAD_DIM} (got {dims})"
        largest = _backward_widths(*dims, grouped=problem.group_size > 1)[0] == _MAX_HEAD_DIM
        extras = problem.softcap > 0 or problem.mask.has_window
        if problem.backward and largest and extras and architecture != 9:
            return "its backward at head dim 256 has neither softcap nor windows on Blackwell"
        return None

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What it cannot compute at all, and what it has no argument for over a cache."""
        reason = self.unsupported(problem.without_cache)
        return reason or cache.unsupported(problem, _architecture())

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """One call of flash-attn 4, over pages."""
        return cache.forward(self._package, call, _architecture())

    def version(self) -> str:
        """The package's, and the compiler's that builds its kernels."""
        return (
            f"flash-attn-4 {version('flash-attn-4')}, cutlass-dsl {version('nvidia-cutlass-dsl')}"
        )

    def run_forward(self, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
        """One call of flash-attn 4."""
        if call.documents is not None:  # a hidden key's score is overwritten, its v multiplied by 0
            keys = keys._replace(v=ended(call.documents.cu_seqlens_k, keys.v)[0])
        dim, dim_v = _widths(q.shape[-1], keys.v.shape[-1], _FORWARD_STEP)
        # five values in 4.0.0b36, two before
        out, lse, *_ = self._package._flash_attn_fwd(
            fitted(q, dim), fitted(keys.k, dim), fitted(keys.v, dim_v),
            return_lse=True, **_options(call),
        )  # fmt: skip
        return out[..., : keys.v.shape[-1]], lse

    def run_backward(self, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool) -> Sums:
        """One call; the package forms delta itself, from the whole row's out."""
        (q, dout, out, lse, _), (k, v) = rows, keys
        if call.documents is not None:
            q, dout = ended(call.documents.cu_seqlens_q, q, dout)
            k, v = ended(call.documents.cu_seqlens_k, k, v)
        grouped = k.shape[-2] != q.shape[-2]
        dim, dim_v = _backward_widths(q.shape[-1], v.shape[-1], grouped=grouped)
        shares = self._package._flash_attn_bwd(
            fitted(q, dim), fitted(k, dim), fitted(v, dim_v),
            fitted(out.to(q.dtype), dim_v), fitted(dout.to(q.dtype), dim_v),
            lse.contiguous(),  # its preprocessing assumes dense rows
            deterministic=deterministic, **_options(call),
        )  # fmt: skip
        return cropped(shares, keys)


def _architecture() -> int:
    major, _ = torch.cuda.get_device_capability()
    return major


def _backward_widths(dim: int, dim_v: int, *, grouped: bool) -> tuple[int, int]:
    """With fewer key heads than query heads, the backward wants one head dim.

    So it does with the wider one in v: (64, 128) did not launch on an H200 with 4.0.0b36.
    """
    if grouped or dim_v > dim:
        dim = dim_v = max(dim, dim_v)
    return _widths(dim, dim_v, _BACKWARD_STEP)


def _widths(dim: int, dim_v: int, step: int) -> tuple[int, int]:
    """The least head dims of q and v that the package has kernels for."""
    dim, dim_v = rounded(dim, step), rounded(dim_v, step)
    if max(dim, dim_v) <= 128 or _architecture() == 9:
        return dim, dim_v
    # all that Blackwell has above 128
    return (192, 128) if dim <= 192 and dim_v <= 128 else (_MAX_HEAD_DIM, _MAX_HEAD_DIM)


def _options(call: FlashCall) -> dict[str, Any]:
    """A call in the package's words, the same forward and backward."""
    options = {
        "softmax_scale": call.score.softmax_scale,
        "softcap": call.score.softcap,
        "causal": call.is_causal,
        "window_size_left": call.left,
        "window_size_right": call.right,
    }
    if call.documents is not None:
        names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
        options |= {name: getattr(call.documents, name) for name in names}
    return options
