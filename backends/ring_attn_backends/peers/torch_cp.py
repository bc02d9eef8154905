"""torch's context parallelism (torch.distributed.tensor.experimental) over its own attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.problem import Problem

Rotation = Literal["alltoall", "allgather"]

_MODULE = "torch.distributed.tensor.experimental._attention"
_SEQUENCE = 2  # the dim that is dealt: tensors are (B, H, M, D) here


class TorchCP:
    """torch's context parallelism with one of its kernels; a subclass says which.

    sdpa: the kernel, as torch.nn.attention.SDPBackend has it.
    rotation: how keys travel.
    needs_cuda: whether torch has a ring for the kernel on CUDA devices only.
    """

    name: str
    kernel: str | None
    sdpa: str
    rotation: Rotation
    needs_cuda = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    capturable = True

    def __init__(self) -> None:
        if not dist.is_available():
            raise BackendUnavailable(self.name, "this torch was built without distributed")
        if self.needs_cuda and not torch.cuda.is_available():
            raise BackendUnavailable(self.name, "there is no CUDA device that torch can use")
        self._package = import_module(_MODULE)

    def version(self) -> str:
        """The version of torch."""
        return f"torch {torch.__version__}"

    def unsupported(self, problem: Problem, partition: str, world_size: int) -> str | None:
        """What scaled_dot_product_attention has no argument for, and what its rules leave out."""
        if problem.mask.has_window:
            return f"scaled_dot_product_attention has no window (the mask is {problem.mask})"
        if problem.softcap:
            return f"scaled_dot_product_attention has no softcap (softcap is {problem.softcap})"
        if problem.deterministic:
            return "scaled_dot_product_attention has no argument for determinism"
        if partition not in ("contiguous", "zigzag"):
            return f"it deals contiguous or zigzag (which it calls load balance), not {partition}"
        if partition == "zigzag" and not problem.mask.causal:
            return "it balances load, which is its zigzag, for causal attention only"
        return self._kernel_lacks(problem)

    def _kernel_lacks(self, problem: Problem) -> str | None:
        if problem.dtype not in {"float16", "bfloat16"}:
            return f"this kernel computes in float16 and bfloat16 only, not {problem.dtype}"
        return None

    def join(self, problem: Problem, partition: str, group: dist.ProcessGroup) -> _Ring:
        """A module whose attention is wrapped by torch, as torchtitan does it."""
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor.parallel import parallelize_module

        # named, because torch keeps meshes by their ranks and names: else another group of the same
        # ranks would be served by this one, which may be gone
        names = (group.group_name,)
        mesh = DeviceMesh.from_group(group, problem.device, mesh_dim_names=names)
        parallel = self._package._ContextParallel
        plan = parallel(seq_dim=_SEQUENCE, attention_type=parallel.AttentionType.SDPA)
        # on for the life of the process, as in a program: it concerns DTensors, which are its own
        self._package._enable_context_parallel_dispatcher()
        attention = parallelize_module(self._attention(problem), mesh, plan)
        settings = _Settings(self._package, self.rotation, partition == "zigzag")
        return _Ring(attention, settings)

    def _attention(self, problem: Problem) -> torch.nn.Module:
        return _Attention(self.sdpa, problem)


class FlashAllToAll(TorchCP):
    """torch's context_parallel over its flash kernel, keys passed on by all-to-all."""

    name = "torch_cp[flash,alltoall]"
    kernel = "aten"
    sdpa = "FLASH_ATTENTION"
    rotation = "alltoall"


class FlashAllGather(TorchCP):
    """torch's context_parallel over its flash kernel, keys gathered: its default."""

    name = "torch_cp[flash,allgather]"
    kernel = "aten"
    sdpa = "FLASH_ATTENTION"
    rotation = "allgather"


class CudnnAllToAll(TorchCP):
    """torch's context_parallel over cuDNN, keys passed on by all-to-all."""

    name = "torch_cp[cudnn,alltoall]"
    kernel = "cudnn"
    sdpa = "CUDNN_ATTENTION"
    rotation = "alltoall"


class CudnnAllGather(TorchCP):
    """torch's context_parallel over cuDNN, keys gathered."""

    name = "torch_cp[cudnn,allgather]"
    kernel = "cudnn"
    sdpa = "CUDNN_ATTENTION"
    rotation = "allgather"


class Math(TorchCP):
    """torch's context_parallel over plain matmuls, which DTensor gathers keys for: no ring."""

    name = "torch_cp[math]"
    kernel = None
    sdpa = "MATH"
    rotation = "allgather"  # of no effect here
    needs_cuda = False

    def _kernel_lacks(self, problem: Problem) -> str | None:
        if problem.mask.causal:
            return "it fails on causal masks (torch adds a plain tensor to a DTensor in its math)"
        return None


class _Attention(torch.nn.Module):
    """The call that torch wraps: this rank's tokens in and out."""

    def __init__(self, sdpa: str, problem: Problem) -> None:
        super().__init__()
        self._kernel = getattr(torch.nn.attention.SDPBackend, sdpa)
        self._causal = problem.mask.causal
        self._grouped = problem.heads_q != problem.heads_kv

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """out (B, H, M, D)."""
        with torch.nn.attention.sdpa_kernel(self._kernel):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=self._causal, enable_gqa=self._grouped
            )


@dataclass(frozen=True)
class _Settings:
    """torch keeps these in a global, and reads them in forward and in backward."""

    package: ModuleType
    rotation: Rotation
    balance: bool

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Sets them, and puts back what was there."""
        options: Any = self.package._cp_options
        before = options.rotate_method, options.enable_load_balance
        self.package.set_rotate_method(self.rotation)
        options.enable_load_balance = self.balance
        try:
            yield
        finally:
            options.rotate_method, options.enable_load_balance = before


@dataclass(frozen=True)
class _Ring:
    attention: torch.nn.Module
    inside: _Settings

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        """out; scaled_dot_product_attention gives no lse."""
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = self.attention(*heads_first)
        return out.transpose(1, 2), None

    def settings(self) -> AbstractContextManager[object]:
        """How keys travel, and whether the sequence is dealt in zigzag."""
        return self.inside.in_force()
