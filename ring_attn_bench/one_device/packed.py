"""Which kernel computes packed documents: one that takes them so, or one called for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ring_attn_bench import registry
from ring_attn_bench.backend import Backend, PackedBackend
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.one_device.documents import PackedKernel
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.problem import Problem
from ring_attn_bench.ring.choose import announce


def choose_packed(name: str, problem: Problem) -> PackedKernel:
    """The kernel for a packed problem; `auto` prefers those that need no call for each document.

    Raises UnknownName, BackendUnavailable, or Unsupported with the reasons.
    """
    if name != "auto":
        backend = registry.load(name)
        kernel = _packed(backend, problem)
        if isinstance(kernel, str):
            kernel = _one_by_one(backend, problem)
        if isinstance(kernel, str):
            raise Unsupported(name, kernel)
        return kernel
    reasons: dict[str, str] = {}
    loaded = list(_loaded(reasons))
    for take in (_packed, _one_by_one):
        for backend in loaded:
            kernel = take(backend, problem)
            if not isinstance(kernel, str):
                announce(backend.name, problem.device)
                return kernel
            reasons[backend.name] = kernel
    raise Unsupported("auto", "; ".join(f"{who}: {why}" for who, why in reasons.items()))


def _loaded(reasons: dict[str, str]) -> Iterator[Backend]:
    for name in registry.backends():
        try:
            yield registry.load(name)
        except BackendUnavailable as error:
            reasons[name] = error.reason


def _packed(backend: Backend, problem: Problem) -> PackedKernel | str:
    if not isinstance(backend, PackedBackend):
        return "it does not take documents packed"
    return backend.unsupported(problem) or backend


def _one_by_one(backend: Backend, problem: Problem) -> PackedKernel | str:
    return backend.unsupported(replace(problem, packed=False)) or OneByOne(backend)
