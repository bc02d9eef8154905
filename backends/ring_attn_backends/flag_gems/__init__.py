"""The flag-gems package: its forward pass, beside the backward pass of our own Triton kernels."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_backends.flag_gems import cache, calls
from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.triton import TritonBackend
from ring_attn_bench.contract.cache import CachedCall
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Documents, Problem, Score

_LAST_TRITON = (3, 6)


class FlagGemsBackend:
    """FlagGems' forward in Triton; backward is this project's own Triton kernels, not FlagGems'.

    FlagGems 5.0.2 has a backward for its own SDPA only, and that masks causally whatever is asked
    (ops/attention.py:959): it cannot give the share of a block of earlier keys.

    Importing it makes a CUDA context on the current device, a folder ~/.flaggems with a database
    of tuned tiles, the environment variable FLAGGEMS_SOURCE_DIR and two entries of sys.path; it
    changes no operator of torch's as long as nobody calls its `enable`.
    """

    name = "flag_gems"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.INDEX
    needs_delta = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")
        self._gradients = TritonBackend()
        _refuse_newer_triton(self.name)
        try:
            self._package = import_module("flag_gems")
        except Exception as error:  # it looks for devices, and for a home to write to
            reason = f"importing flag_gems failed with {type(error).__name__}: {error}"
            raise BackendUnavailable(
                self.name, f"{reason}; try: {COMMANDS['flag_gems']}"
            ) from error

    def unsupported(self, problem: Problem) -> str | None:
        """What its kernels lack; what it gets wrong is in `calls`; then what ours lack."""
        if problem.device != "cuda":
            return "it runs on CUDA only"
        if problem.dtype not in {"float16", "bfloat16"}:
            return f"it computes in float16 and bfloat16 only, not {problem.dtype}"
        if problem.dropout_p:
            # at 0.1 it drops 0.1055 (ops/flash_api.py:1053, ops/flash_kernel.py:92), and of packed
            # documents it does not scale what it keeps (ops/flash_kernel.py:1608)
            return (
                "its dropout drops with another probability than it scales for"
                f" (dropout_p is {problem.dropout_p})"
            )
        if problem.head_dim != problem.head_dim_v:
            return f"q and v must have one head dim (got {problem.head_dim}, {problem.head_dim_v})"
        if problem.head_dim > calls.WIDTHS[-1]:
            return f"it has no head dim above {calls.WIDTHS[-1]} (got {problem.head_dim})"
        if (1 if problem.packed else problem.batch) * problem.heads_q > calls.MAX_GRID:
            return f"it has no batch x heads above {calls.MAX_GRID}"
        reason = self._gradients.unsupported(problem) if problem.backward else None
        return reason and f"its gradients are those of our backend triton: {reason}"

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """What its kernels lack, and what they have no argument for over a cache."""
        return self.unsupported(problem.without_cache) or cache.unsupported(problem)

    def version(self) -> str:
        """The versions of FlagGems and of our Triton kernels."""
        return f"forward: flag-gems {version('flag-gems')}; backward: {self._gradients.version()}"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """One call of FlagGems."""
        return calls.forward(self._package, q, keys, FlashCall.of_block(block, score))

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Our Triton kernels'; ALiBi's distances are by index, as in the forward pass."""
        return self._gradients.backward(
            rows, keys, _by_index(block), score, deterministic=deterministic
        )

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """One call of FlagGems."""
        return calls.packed_forward(
            self._package, q, keys, FlashCall.of_documents(documents, score)
        )

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """The backward of our Triton kernels."""
        return self._gradients.packed_backward(
            rows, keys, documents, score, deterministic=deterministic
        )

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """One call of FlagGems, over pages."""
        return cache.forward(self._package, call)


def _refuse_newer_triton(name: str) -> None:
    """FlagGems keeps compiled kernels itself and launches them with what it knows of Triton's.

    From a kernel's second call on it leaves constants out with Triton 3.7 (utils/libentry.py:812),
    whose launcher does not count what it is given (backends/nvidia/driver.c:1240).
    """
    import triton

    major, minor = (int(part) for part in triton.__version__.split(".")[:2])
    if (major, minor) > _LAST_TRITON:
        reason = (
            "flag-gems 5.0.2 launches kernels wrongly with a Triton newer than"
            f" {'.'.join(map(str, _LAST_TRITON))} (this is {triton.__version__})"
        )
        raise BackendUnavailable(name, reason)


def _by_index(block: Block) -> Block:
    """The same block at positions that are its indices, the last row and the last key at one."""
    rows, keys, band = block.row_count, block.key_count, block.index_band
    assert band is not None  # the form would be GENERAL
    last = max(rows, keys)
    return Block((Span(last - rows, rows),), (Span(last - keys, keys),), band.shifted(keys - rows))
