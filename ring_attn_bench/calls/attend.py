"""A checked call as one differentiable operation: one launch, packed documents or a ring.

What the backward reads is saved by autograd, all of it: a tensor that is changed in place between
the passes is autograd's error, and nothing of it is kept by a call that is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.autograd import forward_ad

from ring_attn_bench.calls import sinks
from ring_attn_bench.calls.autocast import is_enabled, without_autocast
from ring_attn_bench.calls.autograd_limits import first_order, many_gradients, transformed
from ring_attn_bench.calls.delta import delta
from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.contract.tensors import Kept, Keys, Rows, Sums
from ring_attn_bench.plan.problem import Score

Output = Tensor | tuple[Tensor, Tensor, None]
LocalOutput = Tensor | tuple[Tensor, Tensor, Tensor | None]
"""What the functions of one device return: the third is the pattern of dropout, where known."""


class Given(NamedTuple):
    """The tensors of a call: all that it computes with."""

    q: Tensor
    k: Tensor
    v: Tensor
    sink: Tensor | None = None
    alibi_slopes: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None

    @property
    def keys(self) -> Keys:
        """k and v."""
        return Keys(self.k, self.v)

    def score(self, score: Score) -> Score:
        """The score with the slopes of this call."""
        slopes = self.alibi_slopes
        if slopes is None:
            return score
        return Score(
            score.softmax_scale, score.softcap, slopes, score.dropout_p, score.dropout_seed
        )


class Call(Protocol):
    """A checked call without its tensors: attention of some shapes, and its gradients."""

    @property
    def needs_delta(self) -> bool:
        """Whether `backward` reads `rows.delta`."""
        ...

    def seeded(self, seed: int) -> Self:
        """The same call with another seed for dropout."""
        ...

    def forward(self, given: Given) -> tuple[Tensor, Tensor]:
        """out in q's dtype, and lse."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether it is a `KeepingCall`, and is to keep."""
        ...

    def backward(self, given: Given, rows: Rows, dlse: Tensor | None) -> Sums:
        """dq, dk, dv, in the dtypes of q, k and v or wider.

        rows.delta, where it is needed, is delta - dlse, which is all that dlse does to a gradient
        (ds = p * (dp - delta + dlse)). dlse is given to kernels that compute a delta of their own.
        """
        ...


class KeepingCall(Call, Protocol):
    """A call whose forward, where autograd records it, keeps more for the backward."""

    def forward_keeping(self, given: Given) -> tuple[tuple[Tensor, Tensor], Kept]:
        """The forward's results, and what is kept."""
        ...

    def backward(
        self, given: Given, rows: Rows, dlse: Tensor | None, kept: Kept | None = None
    ) -> Sums:
        """`Call.backward`, with what was kept; None is nothing."""
        ...


def attend(call: Call, given: Given, *, return_attn_probs: bool) -> Output:
    """out or, with return_attn_probs, (out, lse, None); differentiable in q, k, v and sink."""
    if (
        not torch.is_grad_enabled()
        # gradients of other kinds, which autograd refuses, although it is off
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    ):
        out, lse = _computed(call.forward, given)
        return (out, lse, None) if return_attn_probs else out
    # autograd takes the host 0.3 us for each argument, None or not
    plain = given.sink is given.alibi_slopes is given.cu_seqlens_q is None
    tensors = given[:3] if plain else given
    try:
        results = Attention.apply(call, return_attn_probs, *tensors)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        refused = transformed("attention", error)
        if refused is None:
            raise
        raise refused from None
    return (*results, None) if return_attn_probs else results


def _computed(
    forward: Callable[[Given], tuple[Tensor, Tensor]], given: Given
) -> tuple[Tensor, Tensor]:
    device_type = given.q.device.type
    if is_enabled(device_type):
        with without_autocast(device_type):
            out, lse = forward(given)
    else:
        out, lse = forward(given)
    # the same memory where it is a view: torch refuses every change in place of such a result
    return out.data if out._is_view() else out, lse.data if lse._is_view() else lse


class Attention(torch.autograd.Function):
    """(call, whether lse is wanted, *given) -> out, or (out, lse).

    Without `setup_context`, which torch.func asks for: to bind the arguments for it takes torch
    12 us of a call that takes 40.
    The backward runs in full, whichever gradients are needed here: on a ring it is a collective.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        *arguments: Any,  # noqa: ANN401
    ) -> Tensor | tuple[Tensor, Tensor]:
        """out and, if wanted, lse: one that is not costs autograd nothing."""
        call, wants_lse, *tensors = arguments
        given = Given(*tensors)
        kept: Kept = ()
        if call.keeps:

            def forward(given: Given) -> tuple[Tensor, Tensor]:
                nonlocal kept
                (out, lse), kept = call.forward_keeping(given)
                return out, lse

            out, lse = _computed(forward, given)
        else:
            out, lse = _computed(call.forward, given)
        ctx.save_for_backward(*tensors, out, lse, *kept)
        ctx.call, ctx.given = call, len(tensors)
        ctx.set_materialize_grads(False)
        return (out, lse) if wants_lse else out

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        dout: Tensor | None,
        dlse: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """dq, dk, dv and dsink, each only where it is needed."""
        if torch.is_grad_enabled():
            return first_order(Attention.backward, ctx, dout, dlse)
        for x in (dout, dlse):  # `batched`, which a frame of its own would cost
            if x is not None and (is_legacy_batchedtensor(x) or is_batchedtensor(x)):
                raise many_gradients()
            if x is not None and (type(x) is not Tensor or x.layout is not torch.strided):
                check_dense("the gradient of out" if x is dout else "the gradient of lse", x)
        saved, count, call, needs = ctx.saved_tensors, ctx.given, ctx.call, ctx.needs_input_grad
        tensors, (out, lse, *kept) = saved[:count], saved[count:]
        given = Given(*tensors)
        backward = partial(call.backward, kept=tuple(kept)) if call.keeps else call.backward
        wants_dsink = given.sink is not None and needs[5]
        dout = torch.zeros_like(out) if dout is None else _with_contiguous_rows(dout)
        told, sums, dsink = call.needs_delta, None, None
        with without_autocast(given.q.device.type):
            if dlse is not None:  # nothing follows from a row that sees nothing, whatever is asked
                dlse = dlse.masked_fill(lse.isneginf(), 0.0)
            if told or wants_dsink:
                sums = delta(dout, out, lse.dtype)
                sums = sums if dlse is None else sums - dlse
            if told:
                made = backward(given, Rows(given.q, dout, out, lse, sums), None)
            else:
                made = backward(given, Rows(given.q, dout, out, lse), dlse)
            if wants_dsink:
                assert given.sink is not None  # it needs a gradient
                assert sums is not None
                dsink = sinks.gradient(given.sink, lse, sums)
        dq, dk, dv = [
            gradient.to(x.dtype) if need else None
            for gradient, x, need in zip(made, tensors, needs[2:], strict=False)
        ]
        return (None, None, dq, dk, dv, dsink, None, None, None)[: len(needs)]


def _with_contiguous_rows(dout: Tensor) -> Tensor:
    """The gradient, laid out as kernels read it; out.sum()'s for one is expanded."""
    if dout.stride(-1) == 1:
        return dout.resolve_neg() if dout.is_neg() else dout
    # not contiguous(), which returns what has no elements, or one, as it is
    return torch.empty(dout.shape, dtype=dout.dtype, device=dout.device).copy_(dout)
