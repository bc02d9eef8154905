"""Results that have no gradient, and say so when one is asked for."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument


class _ForwardOnly(torch.autograd.Function):
    """out and lse as they are, and a sentence for whoever goes backward through them."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        out: Tensor,
        lse: Tensor,
        *_: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return out.detach(), lse.detach()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:  # noqa: ANN401 - as torch's
        raise InvalidArgument(
            "A gradient is asked for of attention over pages, which has none: it is forward only. "
            "Call it under torch.no_grad(), or without block_table over packed k and v."
        )


def forward_only(
    out: Tensor, lse: Tensor, asked_of: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor]:
    """out and lse, whose backward raises InvalidArgument where one of `asked_of` has gradients.

    flash-attn too runs such calls forward: a model that is not under no_grad keeps working.
    """
    tensors = [x for x in asked_of if x is not None and x.requires_grad]
    if not tensors or not torch.is_grad_enabled():
        return out, lse
    results: tuple[Tensor, Tensor] = _ForwardOnly.apply(out, lse, *tensors)  # type: ignore[no-untyped-call]
    return results
