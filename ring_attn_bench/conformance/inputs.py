"""A case's tensors, as a ring would hand them over, and how they lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.conformance.cases import Storage
from ring_attn_bench.contract.tensors import Keys, Rows

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

    @property
    def keys(self) -> Keys:
        """k and v."""
        return Keys(self.k, self.v)

    def rows(self, out: Tensor, lse: Tensor) -> Rows:
        """What a backward reads of the queries, delta too."""
        delta = (self.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(-2, -1)
        return Rows(self.q, self.dout, out, lse, delta)


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
