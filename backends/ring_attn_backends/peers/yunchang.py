"""yunchang (github.com/feifeibear/long-context-attention): Ulysses, where ranks exchange heads.

Its hybrid of Ulysses and ring (USP) is not here: balanced, it deals the sequence to ranks as none
of our partitions does, and unbalanced it would stand for what nobody uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any, ClassVar

import torch.distributed as dist
from torch import Tensor

from ring_attn_backends.peers.flash_attn_kernels import FlashAttn2, FlashAttn4, PeerKernel, Triton
from ring_attn_backends.peers.ring_flash_attn_varlen import window_size
from ring_attn_backends.peers.stand_ins import standing_in
from ring_attn_backends.triton import TritonBackend
from ring_attn_bench.plan.problem import Problem


class Ulysses:
    """yunchang's Ulysses with a kernel inside; a subclass says which."""

    name: str
    kernel: str | None
    inside: PeerKernel
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    capturable = True

    def __init__(self) -> None:
        self._package = _import(self.inside.stand_ins())

    def version(self) -> str:
        """The versions of yunchang and of the kernel."""
        return f"yunchang {version('yunchang')}, {self.inside.version()}"

    def unsupported(self, problem: Problem, partition: str, world_size: int) -> str | None:
        """How it deals, and what its kernel cannot do."""
        if partition != "contiguous":
            return f"Ulysses deals contiguous: each rank sees the whole sequence, not {partition}"
        for heads, whose in ((problem.heads_q, "query"), (problem.heads_kv, "key")):
            if heads % world_size:
                return f"{heads} {whose} heads cannot be dealt to {world_size} ranks"
        return self.inside.unsupported(problem)

    def join(self, problem: Problem, partition: str, group: dist.ProcessGroup) -> _Ring:
        """The package's module over the group."""
        attention = self._package.UlyssesAttention(sequence_process_group=group)
        return _Ring(attention, problem)


class WithFlashAttn2(Ulysses):
    """yunchang's Ulysses as it comes, with flash-attn 2 inside."""

    name = "yunchang[ulysses,flash_attn_2]"
    inside = FlashAttn2()
    kernel = inside.name


class WithFlashAttn4(Ulysses):
    """yunchang's Ulysses with flash-attn-4 in the place of flash-attn 2."""

    name = "yunchang[ulysses,flash_attn_4]"
    inside = FlashAttn4()
    kernel = inside.name


class WithTriton(Ulysses):
    """yunchang's Ulysses with our Triton kernels in the place of flash-attn 2."""

    name = "yunchang[ulysses,triton]"
    inside = Triton()
    kernel = inside.name
    worker_environment = TritonBackend.worker_environment


@dataclass(frozen=True)
class _Ring:
    attention: Any
    problem: Problem

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        """out; the module gives no lse."""
        out: Tensor = self.attention(
            q, k, v,
            softmax_scale=self.problem.head_dim**-0.5,
            causal=self.problem.mask.causal,
            window_size=window_size(self.problem.mask),
            softcap=self.problem.softcap,
            deterministic=self.problem.deterministic,
        )  # fmt: skip
        return out, None

    def settings(self) -> AbstractContextManager[object]:
        """A context that sets nothing: this ring needs no settings of torch."""
        return nullcontext()


def _import(stand_ins: Mapping[str, ModuleType]) -> ModuleType:
    with standing_in(stand_ins, private="yunchang"):
        return import_module("yunchang")
