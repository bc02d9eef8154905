"""A case's tensors, as a ring would hand them over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.conformance.cases import Case, Storage
from ring_attn_bench.plan.positions import Spans, count

NAN = float("nan")


@dataclass(frozen=True)
class Inputs:
    """q (B, M, H, D), k (B, N, G, D), v (B, N, G, E), dout (B, M, H, E), and where tokens are."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    rows: Tensor
    keys: Tensor

    @property
    def given(self) -> dict[str, Tensor]:
        """What a backend is handed and must leave as it is, by name."""
        return {"q": self.q, "k": self.k, "v": self.v, "dout": self.dout}


def inputs(case: Case, device: str) -> Inputs:
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
    where = _positions(case.rows, device), _positions(case.keys, device)
    if case.storage == "packed":
        return Inputs(*_packed(q, k, v), dout.contiguous(), *where)
    if case.storage == "expanded":
        k, v = (x[:1].contiguous().expand_as(x) for x in (k, v))
        return Inputs(q.contiguous(), k, v, dout[:, :1].contiguous().expand_as(dout), *where)
    q, k, v, dout = (stored(x, case.storage) for x in (q, k, v, dout))
    return Inputs(q, k, v, dout, *where)


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


def _positions(spans: Spans, device: str) -> Tensor:
    return torch.tensor([at for span in spans for at in span.positions()], device=device)
