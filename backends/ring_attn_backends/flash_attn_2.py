"""The flash-attn package, version 2: CUDA kernels for Ampere and newer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor

from ring_attn_backends.shared import flash_2, flash_2_cache, flash_2_limits
from ring_attn_backends.shared.calls import ByCalls, FlashCall
from ring_attn_backends.shared.seeding import drawing_from, philox_state
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Problem


class FlashAttn2Backend(ByCalls):
    """The flash-attn package, version 2: Ampere and newer, fp16 and bf16.

    Its dropout compares bytes: it keeps (floor(255 * (1 - p)) + 1) / 256 of the weights (at 0.1
    it drops 0.1016), and divides those by 1 - p all the same.
    """

    name = "flash_attn_2"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.INDEX
    needs_delta = False
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        try:
            self._package = import_module("flash_attn.flash_attn_interface")
        except Exception as error:  # a build for another torch fails in many ways
            reason = f"importing flash_attn failed with {type(error).__name__}: {error}"
            raise BackendUnavailable(
                self.name, f"{reason}; try: {COMMANDS['flash_attn']}"
            ) from error
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")

    def unsupported(self, problem: Problem) -> str | None:
        """What its kernels cannot do, and what was left out of the installed build."""
        return self.never(problem) or flash_2_limits.build_refusal(self, problem)

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What its kernels cannot do over a cache, or at all, and what its build has not got."""
        reason = flash_2_cache.unsupported(problem) or self.never(problem.without_cache)
        if reason is not None:
            return reason
        return flash_2_cache.build_refusal(self._package.flash_attn_with_kvcache, problem)

    def never(self, problem: Problem) -> str | None:
        """What no build of its kernels can do."""
        if problem.device != "cuda":
            return "it runs on CUDA only"
        return flash_2_limits.unsupported(problem)

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """The package's function over a cache: it appends, rotates and attends in one launch."""
        return flash_2_cache.forward(self._package.flash_attn_with_kvcache, call)

    def version(self) -> str:
        """The version of flash-attn."""
        return f"flash-attn {version('flash-attn')}"

    def run_forward(self, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
        """One launch, but for a window that the dense kernels read as another one."""
        return flash_2.forward(self, q, keys, call)

    def run_backward(self, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool) -> Sums:
        """One call of flash-attn's backward, as forward."""
        return flash_2.backward(self, rows, keys, call, deterministic=deterministic)

    def launch_forward(
        self, q: Tensor, keys: Keys, launch: flash_2.FlashLaunch
    ) -> tuple[Tensor, Tensor]:
        """The package's dense or varlen function; it draws from the default generator."""
        run = self._function("forward", launch)
        dropout = launch.call.score.dropout_p
        with drawing_from(launch.call.seed, q.device) if dropout else nullcontext():
            out, lse, *_ = run(q=q, k=keys.k, v=keys.v, return_softmax=False, **_options(launch))
        return out, lse

    def launch_backward(
        self, rows: Rows, keys: Keys, launch: flash_2.FlashLaunch, *, deterministic: bool
    ) -> Sums:
        """The package's dense or varlen function, which fills dq, dk and dv."""
        dropout, seed = launch.call.score.dropout_p, launch.call.seed
        (q, dout, out, lse, _), (k, v) = rows, keys
        sums = Sums(torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
        self._function("backward", launch)(
            dout=dout, q=q, k=k, v=v, out=out, softmax_lse=lse, **sums._asdict(),
            deterministic=deterministic,
            rng_state=philox_state(seed, q.device) if dropout else None,
            **_options(launch),
        )  # fmt: skip
        return sums

    def _function(self, direction: str, launch: flash_2.FlashLaunch) -> Any:  # noqa: ANN401 - untyped
        packed = launch.call.documents is not None
        return getattr(self._package, f"_flash_attn_{'varlen_' if packed else ''}{direction}")


def _options(launch: flash_2.FlashLaunch) -> dict[str, Any]:
    """A launch in the package's words, the same forward and backward."""
    score, documents = launch.call.score, launch.call.documents
    slopes = score.alibi_slopes
    options = {
        "dropout_p": score.dropout_p,
        "softmax_scale": score.softmax_scale,
        "causal": launch.causal,
        "window_size_left": launch.left,
        "window_size_right": launch.right,
        "softcap": score.softcap,
        "alibi_slopes": None if slopes is None else slopes.contiguous(),
    }
    if documents is not None:
        options |= {
            "cu_seqlens_q": documents.cu_seqlens_q,
            "cu_seqlens_k": documents.cu_seqlens_k,
            "max_seqlen_q": launch.max_rows,
            "max_seqlen_k": launch.max_keys,
        }
    return options
