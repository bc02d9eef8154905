"""An operator and that of its backward, told to torch as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ring_attn_bench.ops.asked import Asked, gradients
from ring_attn_bench.ops.registered import NAMESPACE, never_again, operator
from ring_attn_bench.ops.saved import not_again, returned, saved, setup


def pair(
    name: str,
    schema: str,
    results: tuple[str, ...],
    bodies: tuple[Callable[..., Any], Callable[..., Any]],
    shapes: Callable[..., Any],
    *,
    ordered: bool = False,
) -> None:
    """Registers `name`, which gives these results, out and lse first, and `name_backward`.

    schema: of the arguments, those of `Asked` first. bodies: forward, of these, and backward, of
    dout, dlse, the results and these, which gives dq, dk, dv and dsink. shapes, ordered: as
    `operator` takes them.
    """
    first = 2 + len(results)
    back = f"{name}_backward"
    given = ", ".join(f"Tensor {result}" for result in results)

    def gradient_shapes(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
        return gradients(Asked(*arguments[first : first + len(Asked._fields)]))

    def differentiated(
        ctx: Any,  # noqa: ANN401 - torch has no public type for it
        dout: Tensor | None,
        dlse: Tensor | None,
        *_: Tensor | None,
    ) -> tuple[Any, ...]:
        if ordered:
            never_again(made)
        found, arguments = saved(ctx)
        backward = getattr(getattr(torch.ops, NAMESPACE), back)
        return returned(arguments, backward(dout, dlse, *found, *arguments))

    given_back = ", ".join(["Tensor"] * len(results))
    made = operator(name, f"({schema}) -> ({given_back})", bodies[0], shapes, ordered=ordered)
    made.register_autograd(differentiated, setup_context=setup)
    operator(
        back,
        f"(Tensor? dout, Tensor? dlse, {given}, {schema}) -> (Tensor, Tensor, Tensor, Tensor)",
        bodies[1],
        gradient_shapes,
        ordered=ordered,
    ).register_autograd(not_again)
