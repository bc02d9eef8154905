"""The kernels that go inside peers written for flash-attn: its own, and others in its place.

Shapes: q, out, dq (B, M, H, D), k, v, dk, dv (B, N, G, D), lse (B, H, M), natural log.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from ring_attn_backends.peers.flash_attn_4_varlen import dense, put, refuse, side, varlen_of
from ring_attn_backends.peers.stand_ins import flash_attn_modules
from ring_attn_backends.triton import TritonBackend
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.problem import Problem


class PeerKernel(Protocol):
    """What a peer finds when it imports flash_attn.

    name: the backend of ours that has the same kernel.
    """

    name: str

    def stand_ins(self) -> Mapping[str, ModuleType]:
        """Modules to put in the place of flash_attn's; none for the package itself."""
        ...

    def unsupported(self, problem: Problem) -> str | None:
        """Why the kernel cannot compute the problem, whatever ring it is in; or None."""
        ...

    def version(self) -> str:
        """The version of the kernel's package."""
        ...


class FlashAttn2:
    """The flash-attn package itself."""

    name = "flash_attn_2"

    def stand_ins(self) -> Mapping[str, ModuleType]:
        """None: the peer imports the package as it is."""
        _import("flash_attn.flash_attn_interface", COMMANDS["flash_attn"])
        return {}

    def unsupported(self, problem: Problem) -> str | None:
        """What flash-attn 2 takes."""
        return _sixteen_bits(problem)

    def version(self) -> str:
        """The version of the package."""
        return f"flash-attn {version('flash-attn')}"


class FlashAttn4:
    """flash-attn-4 under the names of flash-attn's functions."""

    name = "flash_attn_4"

    def stand_ins(self) -> Mapping[str, ModuleType]:
        """Three functions of flash-attn that call flash-attn-4."""
        package = _import("flash_attn.cute.interface", COMMANDS["flash_attn_4"])
        return as_flash_attn(package)

    def unsupported(self, problem: Problem) -> str | None:
        """What flash-attn-4 takes."""
        return _sixteen_bits(problem)

    def version(self) -> str:
        """The version of the package."""
        return f"flash-attn-4 {version('flash-attn-4')}"


class Triton:
    """Our Triton kernels under the names of flash-attn's functions."""

    name = "triton"

    @cached_property
    def _kernels(self) -> TritonBackend:
        return TritonBackend()

    def stand_ins(self) -> Mapping[str, ModuleType]:
        """Three functions of flash-attn that call ours; raises BackendUnavailable."""
        return ours_as_flash_attn(self._kernels.name)

    def unsupported(self, problem: Problem) -> str | None:
        """What our kernels take."""
        return self._kernels.unsupported(problem)

    def version(self) -> str:
        """Triton's, and which of our kernels this machine gets."""
        return self._kernels.version()


def ours_as_flash_attn(backend: str) -> dict[str, ModuleType]:
    """Modules with flash-attn 2.8's functions over one of our backends, as users get them."""
    from ring_attn_bench import flash_attn

    return flash_attn_modules(
        _by(backend, flash_attn._flash_attn_forward),
        _by(backend, flash_attn._flash_attn_backward),
        _by(backend, flash_attn.flash_attn_func),
        (
            _by(backend, flash_attn._flash_attn_varlen_forward),
            _by(backend, flash_attn._flash_attn_varlen_backward),
        ),
    )


def _by(backend: str, function: Callable[..., object]) -> Callable[..., object]:
    def by_backend(*arguments: object, **named: object) -> object:
        return function(*arguments, **named, backend=backend)

    # peers look up what a function takes
    by_backend.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return by_backend


def as_flash_attn(package: Any) -> dict[str, ModuleType]:  # noqa: ANN401 - it ships no types
    """Modules with flash-attn 2.8's functions over those of flash-attn-4's `interface`."""

    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        return_softmax: bool = False,
    ) -> tuple[Tensor, Tensor, None, None]:
        refuse(dropout_p, alibi_slopes)
        # five values in 4.0.0b36, two before
        out, lse, *_ = package._flash_attn_fwd(
            q, k, v, softmax_scale=softmax_scale, causal=causal, softcap=softcap, return_lse=True,
            window_size_left=side(window_size_left), window_size_right=side(window_size_right),
        )  # fmt: skip
        return out, lse, None, None

    def backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        rng_state: Tensor | None = None,
    ) -> None:
        refuse(dropout_p, alibi_slopes)
        gradients = package._flash_attn_bwd(
            q, k, v, out, dout, softmax_lse.contiguous(),
            softmax_scale=softmax_scale, causal=causal, softcap=softcap,
            window_size_left=side(window_size_left), window_size_right=side(window_size_right),
            deterministic=deterministic, **dense(dq, dk, dv),
        )  # fmt: skip
        put((dq, dk, dv), gradients)

    def function(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Tensor:
        refuse(dropout_p, alibi_slopes)
        left, right = window_size
        results = package.flash_attn_func(
            q, k, v, softmax_scale=softmax_scale, causal=causal, softcap=softcap,
            window_size=(side(left), side(right)), deterministic=deterministic,
        )  # fmt: skip
        out: Tensor = results[0] if isinstance(results, tuple) else results
        return out

    return flash_attn_modules(forward, backward, function, varlen_of(package))


def _import(name: str, command: str) -> ModuleType:
    package = name.partition(".")[0]
    try:
        module = import_module(name)
    except Exception as error:  # packages and their compilers break each other now and then
        reason = f"importing {name} failed with {type(error).__name__}: {error}; try: {command}"
        raise BackendUnavailable(package, reason) from error
    if not torch.cuda.is_available():
        raise BackendUnavailable(package, "there is no CUDA device that torch can use")
    return module


def _sixteen_bits(problem: Problem) -> str | None:
    if problem.dtype in {"float16", "bfloat16"}:
        return None
    return f"flash-attn computes in float16 and bfloat16 only, not {problem.dtype}"
