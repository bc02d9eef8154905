"""A case's tensors, as a ring would hand them over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.conformance.cases import BlockCase, Storage
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.plan.positions import count

NAN = float("nan")


@dataclass(frozen=True)
class CaseTensors:
    """q (B, M, H, D), k (B, N, G, D), v (B, N, G, E), dout (B, M, H, E) of a block.

    Of packed documents q, dout (T, H, D) and k, v (S, G, D), of all of them in a row.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor

    @property
    def given(self) -> dict[str, Tensor]:
        """What a backend is handed and must leave as it is, by name."""
        return {"q": self.q, "k": self.k, "v": self.v, "dout": self.dout}


def of_block(case: BlockCase, device: str) -> CaseTensors:
    """Normal random values, the same on every device and in every storage."""
    generator = torch.Generator().manual_seed(1)
    # the mean of k, and but for its sign of q: level = scale * sum over dim of their product
    mean = math.sqrt(abs(case.level) / (case.softmax_scale * case.dim))

    def drawn(tokens: int, heads: int, dim: int, mean: float = 0.0) -> Tensor:
        values = (
            torch.randn(tokens, case.batch, heads, dim, generator=generator, device="cpu") + mean
        )
        return values.transpose(0, 1).to(device, case.torch_dtype)

    rows, keys = count(case.rows), count(case.keys)
    q = drawn(rows, case.heads, case.dim, math.copysign(mean, case.level))
    k = drawn(keys, case.key_heads, case.dim, mean)
    v = drawn(keys, case.key_heads, case.head_dim_v)
    dout = drawn(rows, case.heads, case.head_dim_v)
    if case.storage == "packed":
        return CaseTensors(*_packed(q, k, v), dout.contiguous())
    if case.storage == "expanded":
        k, v = (x[:1].contiguous().expand_as(x) for x in (k, v))
        return CaseTensors(q.contiguous(), k, v, dout[:, :1].contiguous().expand_as(dout))
    q, k, v, dout = (stored(x, case.storage) for x in (q, k, v, dout))
    return CaseTensors(q, k, v, dout)


def of_documents(case: PackedCase, device: str) -> CaseTensors:
    """Normal random values, the same on every device; where views, with NaN around them."""
    generator = torch.Generator().manual_seed(2)

    def drawn(count: int, heads: int) -> Tensor:
        values = torch.randn(count, heads, case.dim, generator=generator, device="cpu")
        values = values.to(device, case.torch_dtype)
        if not case.views:
            return values
        return values.new_full((count + 3, 3, heads, case.dim), NAN)[1:-2, 1].copy_(values)

    queries, keys = (sum(side) for side in zip(*case.lengths, strict=True))
    return CaseTensors(
        drawn(queries, case.heads),
        drawn(keys, case.key_heads),
        drawn(keys, case.key_heads),
        drawn(queries, case.heads),
    )


def positions(case: BlockCase, device: str) -> tuple[Tensor, Tensor]:
    """Of the case's rows, and of its keys."""
    rows, keys = (
        torch.tensor([at for span in spans for at in span.positions()], device=device)
        for spans in (case.rows, case.keys)
    )
    return rows, keys


def stored(x: Tensor, storage: Storage) -> Tensor:
    """The same values (B, S, H, D) in another storage, with NaN wherever nobody should look."""
    batch, tokens, heads, dim = x.shape
    match storage:
        case "token_major":
            x_of = x.new_full((tokens + 5, batch, heads, dim), NAN)[3:-2].transpose(0, 1)
        case "heads_first":
            x_of = x.new_full((batch, heads, tokens + 8, dim), NAN)[:, :, :-8].transpose(1, 2)
        case "cut":
            x_of = x.new_full((batch, tokens, heads, 2 * dim), NAN)[..., :dim]
        case _:
            return x.contiguous()
    return x_of.copy_(x)


def cut(x: Tensor) -> Tensor:
    """The same values (..., S) as part of a longer row, with NaN around them."""
    return torch.nn.functional.pad(x, (2, 3), value=NAN)[..., 2:-3]


def _packed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if q.shape == k.shape:
        packed = torch.stack([q, k, v], dim=2)
        return packed[:, :, 0], packed[:, :, 1], packed[:, :, 2]
    packed = torch.stack([k, v], dim=2)
    return q.contiguous(), packed[:, :, 0], packed[:, :, 1]
