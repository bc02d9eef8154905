"""What is wrong with a backend's results on packed documents: each is judged by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench.conformance.calls import cut_out, named
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.conformance.faults import changed, faults, unlike
from ring_attn_bench.conformance.inputs import NAN
from ring_attn_bench.conformance.judge import given
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.conformance.truth import Results, Truth, bounds
from ring_attn_bench.contract.backend import Backend, PackedBackend
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.truth import oracle, tolerance


@dataclass(frozen=True)
class Tokens:
    """q (T, H, D), k and v (S, G, D), dout (T, H, D) of all documents in a row."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor

    @property
    def given(self) -> dict[str, Tensor]:
        """What a backend is handed and must leave as it is, by name."""
        return {"q": self.q, "k": self.k, "v": self.v, "dout": self.dout}


def packed_refusal(
    backend: Backend, case: PackedCase, device: str, *, deterministic: bool, backward: bool
) -> str | None:
    """Why the backend is not asked to compute the case, or None."""
    if not isinstance(backend, PackedBackend):
        return "it takes no packed documents: they are computed one by one"
    problem = case.problem(device, deterministic=deterministic, backward=backward)
    return backend.unsupported(problem)


def packed_forward_faults(backend: Backend, case: PackedCase, device: str) -> list[str]:
    """What is wrong with the backend's out and lse."""
    data = tokens(case, device)
    found = faults(case, packed_truth(case, device), _forward(backend, case, data))
    return found + changed(data.given, tokens(case, device).given)


def packed_backward_faults(backend: Backend, case: PackedCase, device: str) -> list[str]:
    """What is wrong with the backend's gradients, given the true out and lse."""
    data, right = tokens(case, device), packed_truth(case, device)
    found = faults(case, right, _backward(backend, case, data, right, deterministic=False))
    return found + changed(data.given, tokens(case, device).given)


def packed_repeat_faults(
    backend: Backend, case: PackedCase, device: str, *, backward: bool
) -> list[str]:
    """What is wrong with results that are asked to be the same every time."""
    data, right = tokens(case, device), packed_truth(case, device)

    def run() -> Mapping[str, Tensor]:
        if not backward:
            return _forward(backend, case, data)
        return _backward(backend, case, data, right, deterministic=True)

    first, *others = (run() for _ in range(3))
    return faults(case, right, first) or unlike(first, others)


def tokens(case: PackedCase, device: str) -> Tokens:
    """Normal random values, the same on every device; where views, with NaN around them."""
    generator = torch.Generator().manual_seed(2)

    def drawn(count: int, heads: int) -> Tensor:
        values = torch.randn(count, heads, case.dim, generator=generator, device="cpu")
        values = values.to(device, case.torch_dtype)
        if not case.views:
            return values
        return values.new_full((count + 3, 3, heads, case.dim), NAN)[1:-2, 1].copy_(values)

    queries, keys = (sum(side) for side in zip(*case.lengths, strict=True))
    return Tokens(
        drawn(queries, case.heads),
        drawn(keys, case.key_heads),
        drawn(keys, case.key_heads),
        drawn(queries, case.heads),
    )


@lru_cache(maxsize=128)  # of all cases in all dtypes there are some 80
def packed_truth(case: PackedCase, device: str) -> Truth:
    """Computed once for all backends of a process, document by document."""
    exact = _joined(_answers(case, device, torch.float64))
    plain = _joined(_answers(case, device, tolerance.baseline_arithmetic(case.torch_dtype)))
    sizes = _joined(_answers(case, device, torch.float64, with_delta=False))
    uncancelled = {name: tolerance.size(sizes[name]).max_abs for name in ("dq", "dk")}
    return Truth(exact, bounds(case.torch_dtype, exact, [plain], uncancelled))


def _answers(
    case: PackedCase, device: str, arithmetic: torch.dtype, *, with_delta: bool = True
) -> Iterator[Results]:
    """Each document's results; without delta, which out 0 gives, for `tolerance.bounds`."""
    data, score = tokens(case, device), case.score(device)
    documents = case.documents(device)
    starts = [pairwise(x.tolist()) for x in (documents.cu_seqlens_q, documents.cu_seqlens_k)]
    for (row, row_end), (key, key_end) in zip(*starts, strict=True):
        q, dout = data.q[None, row:row_end], data.dout[None, row:row_end]
        k, v = data.k[None, key:key_end], data.v[None, key:key_end]
        # the last query and the last key of a document are at one place
        at = torch.arange(row_end - row, device=device) + (key_end - key) - (row_end - row)
        where = at, torch.arange(key_end - key, device=device)
        out, lse = oracle.forward(q, k, v, *where, case.mask, score, arithmetic=arithmetic)
        gradients = oracle.backward(
            dout, q, k, v, out if with_delta else torch.zeros_like(out), lse, *where,
            case.mask, score, arithmetic=arithmetic,
        )  # fmt: skip
        yield {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def _joined(documents: Iterator[Results]) -> Results:
    found = list(documents)
    return {
        name: torch.cat([x[name][0] for x in found], dim=1 if name == "lse" else 0)
        for name in found[0]
    }


def _forward(backend: Backend, case: PackedCase, data: Tokens) -> dict[str, Tensor]:
    assert isinstance(backend, PackedBackend)  # `packed_refusal` asks
    device = data.q.device.type
    poison(device, (data.q, data.k))
    documents, score = case.documents(device), case.score(device)
    out, lse = backend.packed_forward(data.q, Keys(data.k, data.v), documents, score)
    return {"out": out, "lse": lse}


def _backward(
    backend: Backend, case: PackedCase, data: Tokens, right: Truth, *, deterministic: bool
) -> dict[str, Tensor]:
    assert isinstance(backend, PackedBackend)  # `packed_refusal` asks
    device = data.q.device.type
    out, lse = given(case, right)
    delta = (data.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).T
    rows, keys = Rows(data.q, data.dout, out, lse, delta), Keys(data.k, data.v)
    poison(device, (data.q, *keys))
    found = backend.packed_backward(
        cut_out(rows, backend), keys, case.documents(device), case.score(device),
        deterministic=deterministic,
    )  # fmt: skip
    return named(found)
