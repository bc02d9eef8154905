"""The contract's backward, for a kernel that only differentiates its own forward pass.

Such a kernel's gradients belong to the softmax of the block; the contract wants those that belong
to the softmax of the whole row. Where the kernel gives an lse and differentiates it too, the
difference can be put into what it is asked to differentiate. Of a row, with p, out' and lse' those
of the block and w = exp(lse' - lse) <= 1, so that w p is the whole softmax:

    autograd, given g for out' and h for lse':  ds = p (g.v - g.out' + h)     dv = p^T g
    the contract:                               ds = w p (dout.v - delta)     dv = (w p)^T dout

They are the same for g = w dout and h = g.out' - w delta: exactly, not to first order. What it
costs is the forward pass of the block once more, and one rounding of w dout to the input dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows, Sums

Attend = Callable[[Tensor, Keys], tuple[Tensor, Tensor]]
"""q and keys of a block to its out (B, M, H, E) and lse (B, H, M), both differentiable."""


def share(attend: Attend, rows: Rows, keys: Keys) -> Sums:
    """The block's share of dq, dk, dv, in the dtype of q, k and v."""
    q, dout, _, lse, delta = rows
    assert delta is not None  # whoever calls this needs it
    inputs = [x.detach().requires_grad_() for x in (q, *keys)]
    with torch.enable_grad():
        out, own = attend(inputs[0], Keys(*inputs[1:]))
    with torch.no_grad():
        # a row that sees nothing has own -inf, and whatever its lse is, no share
        weight = torch.exp(own - lse).masked_fill(own == float("-inf"), 0.0)
        g = (weight.transpose(1, 2)[..., None] * dout).to(out.dtype)
        # of g as it was rounded: what the kernel takes off again is taken off exactly
        h = (g.to(own.dtype) * out).sum(-1).transpose(1, 2) - weight * delta
    gradients = torch.autograd.grad((out, own), inputs, (g, h.to(own.dtype)))
    return Sums(*(_in_rows(x) for x in gradients))


def _in_rows(x: Tensor) -> Tensor:
    """With a contiguous last dim, which autograd may have put elsewhere."""
    return x if x.stride(-1) == 1 else x.contiguous()
