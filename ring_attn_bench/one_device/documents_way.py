"""Which kernel computes packed documents: one that takes them so, or one called for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ring_attn_bench import registry
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.contract.backend import Backend, PackedBackend, reason_against
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.one_device.documents import DocumentsCall, PackedKernel
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.ring.backend_choice import announce


@dataclass(frozen=True)
class OfDocuments:
    """Where a call of packed documents is computed: a `Way`."""

    calls: Remembered[DocumentsCall] = field(default_factory=Remembered)
    ranks: None = None

    def made(self, problem: Problem, options: Options) -> DocumentsCall:
        """The kernel and what it computes; raises as `choose_packed`."""
        kernel = choose_packed(options.backend, problem)
        longest = problem.seqlen if problem.queries is None else problem.queries
        score = options.score(problem.head_dim)
        return DocumentsCall(
            kernel, longest, problem.seqlen, problem.mask, score, problem.deterministic
        )


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
    return reason_against(backend, problem) or backend


def _one_by_one(backend: Backend, problem: Problem) -> PackedKernel | str:
    return reason_against(backend, replace(problem, packed=False)) or OneByOne(backend)
