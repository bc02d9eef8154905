"""Sinks of any size: a logit of every row besides its keys', with a value of 0."""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument


def under_one_name(
    sink: Tensor | None, s_aux: Tensor | None, learnable_sink: Tensor | None
) -> Tensor | None:
    """The sink of a call, which others call otherwise; raises InvalidArgument for two of them."""
    if s_aux is None and learnable_sink is None:
        return sink
    given = {"sink": sink, "s_aux": s_aux, "learnable_sink": learnable_sink}
    found = {name: x for name, x in given.items() if x is not None}
    if len(found) > 1:
        raise InvalidArgument(
            f"{' and '.join(found)} are given, and are names of one thing; pass sink alone."
        )
    (one,) = found.values()
    return one


def start(sink: Tensor, dtype: torch.dtype) -> Tensor:
    """The sink (H,) as a row can start from it: of a size that kernels can count in base 2.

    One beyond leaves its rows nothing: out 0, and no gradient, as the limit has it; infinity too.
    """
    return sink.to(dtype).clamp(max=torch.finfo(dtype).max / 2)


def as_given(lse: Tensor, sink: Tensor) -> Tensor:
    """lse (..., H, M) of rows that began with `start`, in place: never below the sink itself."""
    return torch.maximum(lse, sink.to(lse.dtype)[:, None], out=lse)


def beside(lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """What a sink beside the keys leaves of out, and lse with it, of a lse (..., H, M) without."""
    with_sink = torch.logaddexp(lse, start(sink, lse.dtype)[:, None])
    share = torch.exp(lse - with_sink).masked_fill(with_sink.isneginf(), 0.0)
    return share, as_given(with_sink, sink)


def joined(out: Tensor, lse: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """out (..., M, H, E) and lse (..., H, M) with a sink beside the keys that they are of."""
    share, lse = beside(lse, sink)
    return (out * share.transpose(-1, -2)[..., None]).to(out.dtype), lse


def gradient(sink: Tensor, lse: Tensor, sums: Tensor) -> Tensor:
    """-sum over rows of p_sink * (delta - dlse): the sink's value is 0, so its dp is too.

    sums: delta - dlse, (B, H, M) or (H, M) as lse.
    """
    ours = sink.to(lse.dtype)[:, None]
    # the product: sums may be NaN where nothing follows from a row, as in none of the documents
    shares = torch.exp((ours - lse).masked_fill(ours == lse, 0.0)) * sums
    shares = shares.masked_fill(lse.isneginf(), 0.0)
    return -shares.sum(-1).view(-1, len(sink)).sum(0).to(sink.dtype)
