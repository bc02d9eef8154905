"""Packed documents: one call of a backend, and each document's results by themselves."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench.conformance.blocks import cut_out, named
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.conformance.expected import Expected, Results, answers, expect
from ring_attn_bench.conformance.inputs import NAN, CaseTensors
from ring_attn_bench.conformance.poison import poison
from ring_attn_bench.contract.backend import Backend, PackedBackend
from ring_attn_bench.plan.lower import Cut


def inputs(case: PackedCase, device: str) -> CaseTensors:
    """Normal random values, the same on every device; where views, with NaN around them."""
    generator = torch.Generator().manual_seed(2)

    def drawn(count: int, heads: int) -> Tensor:
        values = torch.randn(count, heads, case.dim, generator=generator, device="cpu")
        values = values.to(device, case.torch_dtype)
        if not case.views:
            return values
        return values.new_full((count + 3, 3, heads, case.dim), NAN)[1:-2, 1].copy_(values)

    queries, keys = (sum(side) for side in zip(*case.lengths, strict=True))
    of_q, of_k = (queries, case.heads), (keys, case.key_heads)
    return CaseTensors(*(drawn(*size) for size in (of_q, of_k, of_k, of_q)))


def expected(case: PackedCase, device: str, keep: Tensor | None = None) -> Expected:
    """What is right for each document by itself, joined."""
    data, score, documents = inputs(case, device), case.score(device), case.documents(device)
    starts = [pairwise(x.tolist()) for x in (documents.cu_seqlens_q, documents.cu_seqlens_k)]
    ends = list(zip(*starts, strict=True))

    def answered(arithmetic: torch.dtype, *, in_order: bool = False, delta: bool = True) -> Results:
        each = []
        for (row, row_end), (key, key_end) in ends:
            # the last query and the last key of a document are at one place
            at = torch.arange(row_end - row, device=device) + (key_end - key) - (row_end - row)
            each.append(answers(
                data.q[None, row:row_end], data.k[None, key:key_end], data.v[None, key:key_end],
                data.dout[None, row:row_end], at, torch.arange(key_end - key, device=device),
                case.mask, score, arithmetic, in_order=in_order, delta=delta,
            ))  # fmt: skip
        return {
            name: torch.cat([x[name][0] for x in each], dim=1 if name == "lse" else 0)
            for name in each[0]
        }

    return expect(case.torch_dtype, answered, also_in_order=False)


def parts(backend: Backend, case: PackedCase) -> tuple[Cut, ...]:
    """None: documents are not given one by one."""
    return ()


def two_blocks(case: PackedCase) -> tuple[Cut, ...]:
    """Never asked for: only a block is cut into two."""
    raise NotImplementedError(f"{case}: documents are not cut into blocks")


def forward(
    backend: Backend, case: PackedCase, data: CaseTensors, parts: tuple[Cut, ...]
) -> dict[str, Tensor]:
    """out and lse of all documents in one call."""
    assert isinstance(backend, PackedBackend)  # the case's `refusal` asks
    device = data.q.device.type
    poison(device, (data.q, data.k))
    documents, score = case.documents(device), case.score(device)
    out, lse = backend.packed_forward(data.q, data.keys, documents, score)
    return {"out": out, "lse": lse}


def backward(
    backend: Backend, case: PackedCase, data: CaseTensors, out: Tensor, lse: Tensor,
    parts: tuple[Cut, ...], *, deterministic: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """dq, dk, dv of all documents in one call."""
    assert isinstance(backend, PackedBackend)  # the case's `refusal` asks
    device = data.q.device.type
    poison(device, (data.q, *data.keys))
    sums = backend.packed_backward(
        cut_out(data.rows(out, lse), backend), data.keys, case.documents(device),
        case.score(device), deterministic=deterministic,
    )  # fmt: skip
    return named(sums)


def kept(backend: Backend, case: PackedCase, device: str) -> None:
    """Documents are judged without dropout: each would need a mask of its own."""


def kept_faults(backend: Backend, case: PackedCase, device: str, keep: Tensor) -> list[str]:
    """No dropout mask is there to judge."""
    return []
