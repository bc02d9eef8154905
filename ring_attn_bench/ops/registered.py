"""Operators told to torch: in which order calls stay, and what their bodies may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.effects import _EffectType, _register_effectful_op, with_effects
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import CheckpointPolicy

NAMESPACE = "ring_attn_bench"


def operator(
    name: str,
    schema: str,
    body: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    mutates: tuple[str, ...] = (),
    ordered: bool = False,
) -> Any:  # noqa: ANN401 - torch's class has no public name
    """The operator of that schema: body computes, and shapes says what comes of it.

    ordered: whether calls stay, and in their order, whoever uses what they give: as collectives
    must. An operator that changes its arguments stays anyway, and torch orders none of those.
    """
    whole = _as_outside(body)
    made = torch.library.custom_op(
        f"{NAMESPACE}::{name}", whole, mutates_args=mutates, schema=schema
    )
    made.register_fake(shapes)
    if ordered:
        _register_effectful_op(made._opoverload, _EffectType.ORDERED)
    return made


def never_again(operator: Any) -> None:  # noqa: ANN401
    """What an ordered operator gave in the graph being traced is kept for the graph's backward.

    To be called by its rule of differentiation. Where torch.utils.checkpoint is traced, torch marks
    whatever is in it to be computed again, and then loses the order of what is ordered (2.13: an
    assertion about tokens). A collective need not come twice: its results are kept, as a policy of
    selective checkpointing would have it.
    """
    mode = get_proxy_mode()
    if mode is None:
        return
    for node in mode.tracer.graph.nodes:
        if node.target is with_effects and node.args[1] is operator._opoverload:
            for marked in (node, *node.users):
                marked.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def _as_outside(body: Callable[..., Any]) -> Callable[..., Any]:
    """The body as if it was called by itself: with autograd, and with torch.func's transforms.

    An operator is called below all of these, and in a traced graph's first run inside a mode that
    excludes more: kernels that torch makes of Functions and vmap (flex_attention) then find none.
    """

    def whole(*arguments: Any) -> Any:  # noqa: ANN401 - as the schema says
        excluded = torch._C._dispatch_tls_local_exclude_set()
        kept = torch._C.DispatchKeySet.from_raw_repr(0)
        for key in _AUTOCAST:  # which are excluded wherever there is no autocast
            kept = kept.add(key) if excluded.has(key) else kept
        included = torch._C._dispatch_tls_local_include_set()
        with torch._C._ForceDispatchKeyGuard(included, kept):
            return body(*arguments)

    return whole


_AUTOCAST = [key for name, key in vars(torch._C.DispatchKey).items() if name.startswith("Autocast")]


def own(x: Tensor) -> Tensor:
    """x in memory that is nobody else's, in a row: what an operator may give."""
    is_own = x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes
    return x if is_own else x.clone(memory_format=torch.contiguous_format)
