"""What torch can ask of a call that there is no rule for, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

from ring_attn_bench.errors import InvalidArgument

Gradients = tuple[Tensor | None, ...]


def batched(x: Tensor) -> bool:
    """Whether it is a tensor of vmap's, old or new, which no kernel can read."""
    return _functorch.is_legacy_batchedtensor(x) or _functorch.is_batchedtensor(x)


def many_gradients() -> InvalidArgument:
    """Of a backward that is given those of several losses at once."""
    return InvalidArgument(
        "this backward takes one gradient at a time, and got a batch of them "
        "(is_grads_batched=True, vectorize=True or vmap); call torch.autograd.grad for each of "
        "them, with retain_graph=True, or jacobian with vectorize=False."
    )


def transformed(what: str, error: RuntimeError) -> InvalidArgument | None:
    """The sentence, if that is what torch could not do with a Function; else None.

    what: the function that was called, in a word.
    """
    words = str(error)
    unknown = isinstance(error, NotImplementedError) and transforms()
    if unknown or "functorch" in words or "forward mode AD" in words:
        return under_a_transform(what)
    return None


def transforms() -> bool:
    """Whether one of torch.func's is under way, or forward-mode gradients are."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check_untransformed(what: str, *tensors: object) -> None:
    """Raises InvalidArgument for what `transformed` would, before it is begun: a ring tells then.

    Where torch.func is under way, whatever the tensors; in forward mode, for those with tangents.
    """
    if torch._C._are_functorch_transforms_active():
        raise under_a_transform(what)
    if forward_ad._current_level >= 0 and any(map(_has_tangent, tensors)):
        raise under_a_transform(what)


def _has_tangent(x: object) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def under_a_transform(what: str) -> InvalidArgument:
    """The error of a call inside one of torch.func's transforms."""
    return InvalidArgument(
        f"{what} has no rule for torch.func's transforms (vmap, grad, jvp, ...) nor for "
        "forward-mode gradients; use torch.autograd, and the batch dim for vmap."
    )


def check_not_traced() -> None:
    """Raises InvalidArgument inside torch.jit.trace, which would keep this call's plan for all."""
    if torch._C._get_tracing_state() is not None:
        raise InvalidArgument(
            "this call is recorded by torch.jit.trace, which cannot see the kernels that it "
            "launches; call it outside of what is traced, or use torch.compile."
        )


def first_order(
    backward: Callable[..., Gradients],
    ctx: Any,  # noqa: ANN401 - torch has no public type for it
    *gradients: Tensor | None,
) -> Gradients:
    """The backward under create_graph=True: whoever differentiates its results is told.

    torch's once_differentiable asks whether the gradients that come in need one, and not whether
    the inputs do: those of out.sum() were constants, and what was computed from them had a gradient
    of 0 without a word.
    """
    sources = [x for x in (*gradients, *ctx.saved_tensors) if x is not None and x.requires_grad]
    with torch.no_grad():
        given = backward(ctx, *gradients)
    again: Callable[..., Tensor] = _NotAgain.apply
    return tuple(x if x is None else again(x, *sources) for x in given)


class _NotAgain(torch.autograd.Function):
    """(x, *what it follows from) -> x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *sources: Tensor) -> Tensor:  # noqa: ANN401 - as torch's
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:  # noqa: ANN401
        raise no_second_derivatives()


def no_second_derivatives() -> InvalidArgument:
    """Of gradients that are differentiated again."""
    return InvalidArgument(
        "these gradients cannot be differentiated again: there are no second derivatives of "
        "attention nor of unshard. Leave them out of what is differentiated (without "
        "create_graph=True they are constants), or compute this part in plain torch."
    )
