"""FlexAttention, called in its two ways; heads first: q (B, H, M, D), k (B, G, N, D)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Call = Callable[[Tensor, Tensor, Tensor, ScoreMod | None, BlockMask, float], tuple[Tensor, Tensor]]
"""q, k, v, score_mod, mask and scale to out and the natural log-sum-exp, both differentiable."""

_LIMITS = {"recompile_limit": 1024, "accumulated_recompile_limit": 4096}
"""Compilations of one function: a suite of shapes passes torch's 8, which would be an error."""


def eager(
    q: Tensor, k: Tensor, v: Tensor, score_mod: ScoreMod | None, mask: BlockMask, scale: float
) -> tuple[Tensor, Tensor]:
    """The operator below the function, which refuses gradients on CPU; its lse is in base 2."""
    operator: Any = torch.ops.higher_order.flex_attention
    out, lse, _ = operator(q, k, v, score_mod or _unmodified, mask.as_tuple(), scale, {})
    return out, lse * math.log(2)


def compiled_for_these() -> Call:
    """A kernel for each pair of lengths."""
    return _limited(torch.compile(_these, dynamic=False, fullgraph=True))


def compiled_for_any_length() -> Call:
    """One kernel for all lengths."""
    return _limited(torch.compile(_any_length, dynamic=True, fullgraph=True))


def _limited(compiled: Callable[..., Any]) -> Call:
    """The call under `_LIMITS`; fullgraph lets nothing fall back to eager mode unseen."""

    def run(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - those of a Call
        with torch._dynamo.config.patch(_LIMITS):
            results: tuple[Tensor, Tensor] = compiled(*arguments)
        return results

    return run


def _these(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - those of a Call
    return _flex(*arguments)


def _any_length(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - those of a Call
    """The same by another name: torch keeps compilations by function, and would mix the two."""
    return _flex(*arguments)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, score_mod: ScoreMod | None, mask: BlockMask, scale: float
) -> tuple[Tensor, Tensor]:
    out, statistics = flex_attention(
        q, k, v, score_mod, mask, scale,
        enable_gqa=q.shape[1] != k.shape[1],
        # else a decoding kernel takes fewer than 128 rows, though only without gradients
        kernel_options={"BACKEND": "TRITON"},
        return_aux=AuxRequest(lse=True),
    )  # fmt: skip
    assert statistics.lse is not None  # it was asked for
    return out, statistics.lse


def _unmodified(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
    return score
