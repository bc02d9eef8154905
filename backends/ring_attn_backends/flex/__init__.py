"""torch's FlexAttention: one kernel, which torch.compile makes, for every mask by position."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from ring_attn_backends.flex.calls import Call, compiled_for_any_length, compiled_for_these, eager
from ring_attn_backends.flex.modifications import TILE, score_modification, where
from ring_attn_backends.shared import through_autograd
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.problem import Problem, Score


class FlexBackend:
    """torch's FlexAttention: any mask, ALiBi; compiled on CUDA, whole score matrices on CPU.

    Mask and bias read positions from tensors, so blocks of one shape share one compilation, which
    takes some ten seconds in each direction. Lengths that 128 divides are compiled for themselves;
    all others share a kernel that is given its lengths and checks them in every tile.
    """

    name = "flex"
    forms = frozenset(Form)
    alibi = Alibi.POSITION
    needs_delta = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def unsupported(self, problem: Problem) -> str | None:
        """What comes after its softmax, which it gives no hold on; what its kernels have not."""
        if problem.dropout_p:
            return f"it has no dropout (dropout_p is {problem.dropout_p})"
        if problem.packed:
            return "it does not take documents packed"
        return _unsupported_on_cuda(problem) if problem.device == "cuda" else None

    def version(self) -> str:
        """torch's, and which of its two ways runs where."""
        return f"torch {torch.__version__} (compiled on CUDA, eager on CPU)"

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """One call of flex attention."""
        with torch.no_grad():
            return self._attend(q, keys, block, score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """The block's forward pass again, and autograd; its kernels add in a fixed order."""
        attend = partial(self._attend, block=block, score=score)
        return through_autograd.share(attend, rows, keys)

    def _attend(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        here = where(block, q.device)
        whole_tiles = q.shape[1] % TILE == 0 and keys.k.shape[1] % TILE == 0
        if not q.is_cuda:
            run: Call = eager
        else:
            run = self._for_these_lengths if whole_tiles else self._for_any_length
        out, lse = run(
            _heads_first(q), _heads_first(keys.k), _heads_first(keys.v),
            score_modification(q, here, score), here.mask, score.softmax_scale,
        )  # fmt: skip
        return out.transpose(1, 2), lse

    @cached_property
    def _for_these_lengths(self) -> Call:
        return compiled_for_these()

    @cached_property
    def _for_any_length(self) -> Call:
        return compiled_for_any_length()


def _heads_first(x: Tensor) -> Tensor:
    """A view, without dims of stride 0: its backward writes dk as k lies in memory."""
    return (x.contiguous() if 0 in x.stride() else x).transpose(1, 2)


def _unsupported_on_cuda(problem: Problem) -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    if find_spec("triton") is None:
        return "torch.compile makes its kernels with Triton, which is not installed"
    if torch.cuda.get_device_capability() < (8, 0):
        return "it is used on sm_80 and newer"
    if problem.dtype == "float64":
        return "its CUDA kernels compute in float32: they have no float64"
    for dim in (problem.head_dim, problem.head_dim_v):
        if not 16 <= dim <= 256:
            return f"its CUDA kernels are used with head dims of 16 to 256 (got {dim})"
    return None
