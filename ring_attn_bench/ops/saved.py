"""What autograd keeps of an operator's call for the operator of its backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ring_attn_bench.calls.autograd_limits import no_second_derivatives
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.ops.asked import Asked


def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    """Saves arguments and results; gradients that do not come are None."""
    tensors = tuple(x for x in inputs if isinstance(x, Tensor))
    ctx.save_for_backward(*output, *tensors)
    ctx.results = len(output)
    ctx.recorded = Asked._make(inputs[: len(Asked._fields)]).recorded
    ctx.arguments = tuple(None if isinstance(x, Tensor) else (x,) for x in inputs)
    ctx.set_materialize_grads(False)


def saved(ctx: Any) -> tuple[list[Tensor], list[Any]]:  # noqa: ANN401
    """The call's results and its arguments; raises InvalidArgument if it was traced for none."""
    if not ctx.recorded:
        raise InvalidArgument(
            "this call was traced without gradients, for which another kernel may be chosen, and "
            "is differentiated; trace it with an input that requires a gradient."
        )
    tensors = list(ctx.saved_tensors)
    found, rest = tensors[: ctx.results], iter(tensors[ctx.results :])
    return found, [next(rest) if x is None else x[0] for x in ctx.arguments]


def returned(arguments: list[Any], found: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The gradients of an operator's arguments, of which q, k, v and sink have some."""
    dq, dk, dv, dsink = found
    has_sink = Asked._make(arguments[: len(Asked._fields)]).sink is not None
    return dq, dk, dv, dsink if has_sink else None, *(None,) * (len(arguments) - 4)


def not_again(ctx: Any, *gradients: Tensor | None) -> None:  # noqa: ANN401
    """The rule of an operator that is a backward; raises InvalidArgument."""
    raise no_second_derivatives()
