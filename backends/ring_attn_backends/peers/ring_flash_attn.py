"""ring-flash-attn (github.com/zhuzilin/ring-flash-attention): the ring that most people copy."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from types import ModuleType
from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor

from ring_attn_backends.peers.flash_attn_kernels import FlashAttn2, FlashAttn4, PeerKernel, Triton
from ring_attn_backends.peers.ring_flash_attn_varlen import PackedRing, packed_ring, window_size
from ring_attn_backends.peers.stand_ins import standing_in
from ring_attn_backends.triton import TritonBackend
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.problem import Problem

_FUNCTIONS = {
    "contiguous": "ring_flash_attn_func",
    "zigzag": "zigzag_ring_flash_attn_func",
    "striped": "stripe_flash_attn_func",
}
"""By partition, the function that deals so."""


class RingFlashAttn:
    """The package with a kernel inside; a subclass says which."""

    name: str
    kernel: str | None
    inside: PeerKernel
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    capturable = True

    def __init__(self) -> None:
        self._package = _import(self.inside.stand_ins())

    def version(self) -> str:
        """The versions of ring-flash-attn and of the kernel."""
        return f"ring-flash-attn {version('ring-flash-attn')}, {self.inside.version()}"

    def unsupported(self, problem: Problem, partition: str, world_size: int) -> str | None:
        """What the package asserts, and what it has no argument for.

        A window is not refused: the package hands it to every block as it is, which is wrong.
        """
        if problem.softcap:
            return f"it has no softcap (softcap is {problem.softcap})"
        if partition != "contiguous" and not problem.mask.causal:
            return f"its {partition} ring is for causal attention only"
        return self.inside.unsupported(problem)

    def documents_unsupported(self, problem: Problem, documents: DealtDocuments) -> str | None:
        """What the package has no function or no argument for."""
        pieces, name = 2 * documents.world_size, documents.partition.name
        if problem.softcap:
            return f"it has no softcap (softcap is {problem.softcap})"
        if name not in ("contiguous", "head_tail"):
            return f"it deals documents contiguous (llama3) or head_tail (zigzag), not {name}"
        if name == "head_tail" and not problem.mask.causal:
            return "its zigzag ring is for causal attention only"
        odd = [b - a for a, b in pairwise(documents.starts) if (b - a) % pieces]
        if name == "head_tail" and odd:
            return (
                f"its zigzag ring takes documents of multiples of {pieces} tokens on "
                f"{documents.world_size} ranks, and one has {odd[0]}"
            )
        return self.inside.unsupported(replace(problem, packed=True))

    def join_documents(
        self, problem: Problem, documents: DealtDocuments, group: dist.ProcessGroup
    ) -> PackedRing:
        """The package's llama3 function of documents dealt contiguous, its zigzag one otherwise."""
        return packed_ring(self._package, problem, documents, group)

    def join(self, problem: Problem, partition: str, group: dist.ProcessGroup) -> _Ring:
        """The package's ring function for the partition."""
        return _Ring(getattr(self._package, _FUNCTIONS[partition]), problem, group)


class WithFlashAttn2(RingFlashAttn):
    """ring-flash-attn as it comes, with flash-attn 2 inside."""

    name = "ring_flash_attn[flash_attn_2]"
    inside = FlashAttn2()
    kernel = inside.name


class WithFlashAttn4(RingFlashAttn):
    """ring-flash-attn with flash-attn-4 in the place of flash-attn 2."""

    name = "ring_flash_attn[flash_attn_4]"
    inside = FlashAttn4()
    kernel = inside.name


class WithTriton(RingFlashAttn):
    """ring-flash-attn with our Triton kernels in the place of flash-attn 2."""

    name = "ring_flash_attn[triton]"
    inside = Triton()
    kernel = inside.name
    worker_environment = TritonBackend.worker_environment


@dataclass(frozen=True)
class _Ring:
    function: Any
    problem: Problem
    group: dist.ProcessGroup

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """out and lse; the package's own autograd function is the backward."""
        out, lse, _ = self.function(
            q, k, v,
            softmax_scale=self.problem.head_dim**-0.5,
            causal=self.problem.mask.causal,
            window_size=window_size(self.problem.mask),
            deterministic=self.problem.deterministic,
            return_attn_probs=True,
            group=self.group,
        )  # fmt: skip
        return out, lse

    def settings(self) -> AbstractContextManager[object]:
        """A context that sets nothing: this ring needs no settings of torch."""
        return nullcontext()


def _import(stand_ins: Mapping[str, ModuleType]) -> ModuleType:
    # its adapters for transformers, which no attention needs, do not import beside a new one
    adapters = ModuleType("ring_flash_attn.adapters")
    names = ("substitute_hf_flash_attn", "update_ring_flash_attn_params")
    vars(adapters).update(dict.fromkeys(names))
    with standing_in({**stand_ins, adapters.__name__: adapters}, private="ring_flash_attn"):
        return import_module("ring_flash_attn")
