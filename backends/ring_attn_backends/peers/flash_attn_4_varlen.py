"""flash-attn-4 under the names of flash-attn 2.8's functions of packed documents.

Shapes: q, out, dq (T, H, D), k, v, dk, dv (S, G, D), lse (H, T), natural log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Function = Callable[..., object]


def varlen_of(package: Any) -> tuple[Function, Function]:  # noqa: ANN401 - it ships no types
    """The two below autograd, over those of flash-attn-4's `interface`."""

    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        return_softmax: bool = False,
    ) -> tuple[Tensor, Tensor, None, None]:
        refuse(dropout_p, alibi_slopes)
        # five values in 4.0.0b36, two before
        out, lse, *_ = package._flash_attn_fwd(
            q, k, v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k,
            max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k, softmax_scale=softmax_scale,
            causal=causal, softcap=softcap, return_lse=True,
            window_size_left=side(window_size_left), window_size_right=side(window_size_right),
        )  # fmt: skip
        return out, lse, None, None

    def backward(
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        softmax_lse: Tensor,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float,
        softmax_scale: float,
        causal: bool,
        window_size_left: int = -1,
        window_size_right: int = -1,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        rng_state: Tensor | None = None,
    ) -> None:
        refuse(dropout_p, alibi_slopes)
        gradients = package._flash_attn_bwd(
            q, k, v, out, dout, softmax_lse.contiguous(), cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k, max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k,
            softmax_scale=softmax_scale, causal=causal, softcap=softcap,
            window_size_left=side(window_size_left), window_size_right=side(window_size_right),
            deterministic=deterministic, **dense(dq, dk, dv),
        )  # fmt: skip
        put((dq, dk, dv), gradients)

    return forward, backward


def dense(dq: Tensor, dk: Tensor, dv: Tensor) -> dict[str, Tensor]:
    """Those that its kernels can write: what a peer cut out of larger ones is copied into."""
    return {name: x for name, x in (("dq", dq), ("dk", dk), ("dv", dv)) if x.is_contiguous()}


def put(buffers: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """The gradients where the peer wants them."""
    for buffer, gradient in zip(buffers, gradients[:3], strict=True):
        if gradient is not buffer:
            buffer.copy_(gradient)


def side(size: int) -> int | None:
    """flash-attn writes an unlimited side of a window as -1, flash-attn-4 as None."""
    return None if size < 0 else size


def refuse(dropout_p: float, alibi_slopes: Tensor | None) -> None:
    """Raises NotImplementedError for what flash-attn-4 has not."""
    if dropout_p or alibi_slopes is not None:
        raise NotImplementedError("flash-attn-4 has neither dropout nor ALiBi")
