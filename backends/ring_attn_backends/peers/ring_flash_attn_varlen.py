"""ring-flash-attn's rings of packed documents, as its users call them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.problem import Mask, Problem

HEADS_AT_ONCE = 4
"""Key heads that llama3's function gathers at a time: as in the package's own benchmark, of 8 key
heads (benchmark_varlen_kvpacked_func.py at 1342b84); fewer where that does not divide them."""


@dataclass(frozen=True)
class PackedRing:
    """A function of the package, and what it is told of a batch's documents on this rank."""

    function: Any
    told: Mapping[str, object]
    problem: Problem
    group: dist.ProcessGroup

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """out and lse, with a batch dim; the package's own autograd function is the backward."""
        out, lse, _ = self.function(
            q[0], k[0], v[0],
            **self.told,
            softmax_scale=self.problem.head_dim**-0.5,
            causal=self.problem.mask.causal,
            window_size=window_size(self.problem.mask),
            deterministic=self.problem.deterministic,
            return_attn_probs=True,
            group=self.group,
        )  # fmt: skip
        return out[None], lse[None]

    def settings(self) -> AbstractContextManager[object]:
        """A context that sets nothing: this ring needs no settings of torch."""
        return nullcontext()


def packed_ring(
    package: ModuleType, problem: Problem, documents: DealtDocuments, group: dist.ProcessGroup
) -> PackedRing:
    """Documents that are dealt contiguous, or each by its head and its tail."""
    if documents.partition.name == "contiguous":
        starts = _starts(documents.starts, problem)
        where = dist.get_rank(group), documents.world_size
        prepare = package.llama3_flash_attn_prepare_cu_seqlens
        starts_q, starts_k, longest_q, longest_k, keys = prepare(
            starts, problem.mask.causal, *where
        )
        told = {
            "cu_seqlens_q": starts_q, "cu_seqlens_k": starts_k, "max_seqlen_q": longest_q,
            "max_seqlen_k": longest_k, "local_k_slice": keys,
            "heads_k_stride": gcd(HEADS_AT_ONCE, problem.heads_kv),
        }  # fmt: skip
        return PackedRing(package.llama3_flash_attn_varlen_func, told, problem, group)
    lengths = [(b - a) // documents.world_size for a, b in pairwise(documents.starts)]
    starts = _starts([0, *accumulate(lengths)], problem)
    told = {"cu_seqlens": starts, "max_seqlen": max(lengths)}
    return PackedRing(package.zigzag_ring_flash_attn_varlen_func, told, problem, group)


def _starts(numbers: Any, problem: Problem) -> Tensor:  # noqa: ANN401 - any integers
    return torch.tensor(numbers, dtype=torch.int32, device=problem.device)


def window_size(mask: Mask) -> tuple[int, int]:
    """The window in flash-attn's argument, where -1 is unlimited."""
    left, right = mask.window_left, mask.window_right
    return -1 if left is None else left, -1 if right is None else right
