"""Which kernel computes packed documents: one that takes them so, or one called for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.backend import Backend, PackedBackend
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.one_device.call import Options
from ring_attn_bench.one_device.documents import DocumentsCall, PackedKernel
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.problem import Documents, Problem
from ring_attn_bench.ring.choose import announce
from ring_attn_bench.ring.remembered import Remembered, key_of
from ring_attn_bench.ring.validate import check_attention, check_documents, check_dropout_seed

_known: Remembered[PackedKernel] = Remembered()


class Starts(NamedTuple):
    """Where documents begin and end, and the longest of each side: `problem.Documents`."""

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


def documents_call(
    q: Tensor, k: Tensor, v: Tensor, starts: Starts, options: Options
) -> DocumentsCall:
    """The call of q, k, v (tokens, heads, dim); raises InvalidArgument, or as `choose_packed`.

    On a GPU checks and choice are made once for the shapes and numbers that they follow from; on a
    CPU what cu_seqlens hold is looked at each time.
    """
    check_dropout_seed(options.dropout_seed)
    key = None
    if getattr(q, "is_cuda", False):
        tensors = (q, k, v, starts.cu_seqlens_q, starts.cu_seqlens_k)
        key = key_of(
            (*tensors, options.alibi_slopes, options.sink), starts.max_seqlen_q,
            starts.max_seqlen_k, options.backend, options.dropout_p, options.softmax_scale,
            options.causal, options.window_size, options.softcap, options.deterministic,
        )  # fmt: skip
    kernel = _known.find(key)
    if kernel is None:
        kernel = _checked_kernel(q, k, v, starts, options)
        _known.keep(key, kernel)
    documents = Documents(*starts, options.mask)
    return DocumentsCall(kernel, documents, options.score(q), options.deterministic)


def _checked_kernel(
    q: Tensor, k: Tensor, v: Tensor, starts: Starts, options: Options
) -> PackedKernel:
    check_attention(q, k, v, ("tokens", "heads", "dim"))
    check_documents(Documents(*starts), q, k)
    count = len(starts.cu_seqlens_q) - 1
    options.check(q, count)
    problem = options.problem(q, k, v, count, starts.max_seqlen_k, packed=True)
    return choose_packed(options.backend, problem)


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
