"""FlashAttention-3, the `hopper` folder of flash-attn: built from source, for Hopper and Ampere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import torch
from torch import Tensor

from ring_attn_backends.flash_attn_3 import cache, interface
from ring_attn_backends.shared.calls import ByCalls, FlashCall
from ring_attn_backends.shared.padding import cropped, ended, fitted, rounded
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Problem

_HEAD_DIMS = (64, 96, 128, 192, 256)


class FlashAttn3Backend(ByCalls):
    """FlashAttention-3 (module flash_attn_interface): Hopper and Ampere, fp16 and bf16.

    sm_margin: how many SMs its kernels leave to others, for a transfer that needs some.
    """

    name = "flash_attn_3"
    forms: frozenset[Form] = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    needs_delta = False
    rounds_gradients = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self, *, sm_margin: int = 0) -> None:
        try:
            self._package = import_module("flash_attn_interface")
        except Exception as error:  # a build for another torch fails in many ways
            reason = f"importing flash_attn_interface failed with {type(error).__name__}: {error}"
            raise BackendUnavailable(
                self.name, f"{reason}; try: {COMMANDS['flash_attn_3']}"
            ) from error
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")
        self._forward = interface.parameters(self._package._flash_attn_forward)
        self._backward = interface.parameters(self._package._flash_attn_backward)
        if not {"cu_seqlens_q", "softcap", "sm_margin"} <= {*self._forward} & {*self._backward}:
            raise BackendUnavailable(self.name, "this flash_attn_interface is older than 2025")
        self._sm_margin = sm_margin
        self._left_out = interface.left_out()
        if "LOCAL" in self._left_out:
            self.forms = frozenset({Form.FULL, Form.CAUSAL})

    def unsupported(self, problem: Problem) -> str | None:
        """What the package has no argument for, and what was left out of its build."""
        if problem.device != "cuda":
            return "it runs on CUDA only"
        if problem.dtype not in {"float16", "bfloat16"}:
            return f"it computes in float16 and bfloat16 only, not {problem.dtype}"
        if problem.dropout_p:
            return f"it has no dropout (dropout_p is {problem.dropout_p})"
        if problem.alibi:
            return "it has no ALiBi"
        architecture, _ = torch.cuda.get_device_capability()
        if architecture not in {8, 9}:
            return f"it has kernels for sm_80 to sm_90 only, not for sm_{architecture}x"
        return self._unsupported_dims(problem) or self._not_built(problem, architecture)

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What it cannot do over a cache, or at all, and what was left out of its build."""
        reason = cache.unsupported(problem) or self.unsupported(problem.without_cache)
        return reason or self._lacks(cache.needs(problem))

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """The package's function over a cache: it appends, rotates and attends in one call."""
        return cache.forward(self._package, call, sm_margin=self._sm_margin)

    def version(self) -> str:
        """The package's, where it was installed as one."""
        try:
            return f"flash-attn-3 {version('flash-attn-3')}"
        except PackageNotFoundError:
            return f"flash-attn-3 at {self._package.__file__}"

    def run_forward(self, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
        """One call of flash-attn 3."""
        if call.documents is not None:  # as flash-attn-4's, which came from it
            keys = keys._replace(v=ended(call.documents.cu_seqlens_k, keys.v)[0])
        width = rounded(max(q.shape[-1], keys.v.shape[-1]), 8)
        mine = self._options(call, self._forward)
        mine |= {name: fitted(x, width) for name, x in zip("qkv", (q, *keys), strict=True)}
        out, lse, *_ = self._package._flash_attn_forward(**interface.complete(self._forward, mine))
        if call.documents is not None:
            # +inf is what it writes where there is no key at all (flash_api.cpp:1192)
            lse = lse.masked_fill(lse == float("inf"), float("-inf"))
        return out[..., : keys.v.shape[-1]], lse

    def run_backward(self, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool) -> Sums:
        """One call, which fills dq, dk and dv and gives back now these, now none of them."""
        q, dout, out, lse, _ = rows
        if call.documents is not None:
            q, dout = ended(call.documents.cu_seqlens_q, q, dout)
            keys = Keys(*ended(call.documents.cu_seqlens_k, *keys))
        width = rounded(max(q.shape[-1], keys.v.shape[-1]), 8)
        tensors = {"dout": dout.to(q.dtype), "q": q, "out": out.to(q.dtype), **keys._asdict()}
        mine = self._options(call, self._backward)
        mine |= {name: fitted(x, width) for name, x in tensors.items()}
        mine |= {"d" + name: torch.empty_like(mine[name]) for name in "qkv"}
        # its strides are not looked at
        mine |= {"softmax_lse": lse.contiguous(), "deterministic": deterministic}
        self._package._flash_attn_backward(**interface.complete(self._backward, mine))
        return cropped((mine[name] for name in Sums._fields), keys)

    def _options(self, call: FlashCall, parameters: Mapping[str, bool]) -> dict[str, Any]:
        """A call in the words of one of the package's two functions, which they change at times."""
        sides = tuple(-1 if side is None else side for side in (call.left, call.right))
        options: dict[str, Any] = {
            "softmax_scale": call.score.softmax_scale,
            "softcap": call.score.softcap,
            "sm_margin": self._sm_margin,
            "is_causal" if "is_causal" in parameters else "causal": call.is_causal,
        }
        if "window_size" in parameters:
            options["window_size"] = sides
        else:
            options |= dict(zip(("window_size_left", "window_size_right"), sides, strict=True))
        if call.documents is not None:
            names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
            options |= {name: getattr(call.documents, name) for name in names}
        return options

    def _unsupported_dims(self, problem: Problem) -> str | None:
        dim = rounded(max(problem.head_dim, problem.head_dim_v), 8)
        built = [d for d in _HEAD_DIMS if f"HDIM{d}" not in self._left_out and d >= dim]
        if not built:
            return f"it has head dims of at most 256, or those that were built (got {dim})"
        if not problem.deterministic:
            return None
        if built[0] == 256:
            return f"its backward is not deterministic at head dims above 192 (got {dim})"
        if problem.group_size > 1 and "window_size" in self._backward:
            # repaired in 832d5448 of 2025-08; the signature changed soon after
            return "its deterministic backward with fewer key heads waits on unset memory, in 2.8.3"
        return None

    def _not_built(self, problem: Problem, architecture: int) -> str | None:
        needs = {
            "BACKWARD": problem.backward,
            "LOCAL": problem.mask.has_window,
            "SOFTCAP": problem.softcap > 0,
            "FP16": problem.dtype == "float16",
            "VARLEN": problem.packed,
            "SM8x": architecture == 8,
        }
        return self._lacks(needs)

    def _lacks(self, needs: Mapping[str, bool]) -> str | None:
        lacks = sorted(name for name, needed in needs.items() if needed and name in self._left_out)
        return f"it was built with {', '.join(lacks)} left out" if lacks else None
