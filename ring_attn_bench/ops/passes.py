"""A checked call run by an operator: both passes, apart, with nothing kept between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ring_attn_bench.calls.attend import Attention, Call, Given, attend
from ring_attn_bench.ops.registered import own


class _Saved(NamedTuple):
    """What `Attention.backward` reads of a forward."""

    saved_tensors: tuple[Tensor | None, ...]
    given: int
    call: Call
    needs_input_grad: tuple[bool, ...]


def forward(call: Call, given: Given) -> tuple[Tensor, Tensor]:
    """out and lse, in memory of their own."""
    with torch.no_grad():
        out, lse, _ = attend(call, given, return_attn_probs=True)
        return own(out), own(lse)


def backward(
    call: Call, given: Given, results: tuple[Tensor, Tensor], told: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dq, dk, dv and dsink, an empty one of no sink; told: the gradients of out and lse."""
    has_sink = given.sink is not None
    needs = False, False, True, True, True, has_sink, False, False, False
    saved = _Saved((*given, *results), len(given), call, needs)
    with torch.no_grad():
        found = Attention.backward(saved, *told)[2:6]
        dq, dk, dv, dsink = (given.q.new_empty(0) if x is None else own(x) for x in found)
        return dq, dk, dv, dsink
