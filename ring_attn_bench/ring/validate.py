"""Checks of what a caller passed: each mistake is a sentence with what, got and allowed."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.problem import DTYPES, DtypeName, Mask, Problem


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises InvalidArgument unless q, k, v are shards of one self-attention."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x)
    _same("dtype", q.dtype, k.dtype, v.dtype)
    _same("device", q.device, k.device, v.device)
    _same("batch size", q.shape[0], k.shape[0], v.shape[0])
    _same("number of tokens", q.shape[1], k.shape[1], v.shape[1])
    if k.shape[2] != v.shape[2]:
        raise InvalidArgument(
            f"k has {k.shape[2]} heads and v {v.shape[2]}; they must be the same."
        )
    if q.shape[2] % k.shape[2]:
        raise InvalidArgument(
            f"q has {q.shape[2]} heads and k {k.shape[2]}: the query heads must be a multiple of "
            "the key heads."
        )
    if q.shape[3] != k.shape[3]:
        raise InvalidArgument(
            f"q has head dim {q.shape[3]} and k {k.shape[3]}; they must be the same."
        )


def _check_tensor(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"{name} must be a tensor, got {type(x).__name__}.")
    if x.dim() != 4:
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}, but must have 4 dims: (batch, tokens, heads, dim)."
        )
    if 0 in x.shape:
        raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; no dim may be empty.")
    if _name(x.dtype) not in DTYPES:
        raise InvalidArgument(f"{name} is {_name(x.dtype)}; allowed are {', '.join(DTYPES)}.")
    if x.stride(-1) != 1:
        raise InvalidArgument(
            f"the last dim of {name} is not contiguous (its stride is {x.stride(-1)}, it must be "
            f"1); call {name}.contiguous()."
        )


def _same(what: str, q: object, k: object, v: object) -> None:
    if not q == k == v:
        raise InvalidArgument(f"q, k and v must have one {what}, got {q}, {k} and {v}.")


def check_options(
    dropout_p: float, softmax_scale: float | None, softcap: float, window_size: tuple[int, int]
) -> None:
    """Raises InvalidArgument for numbers that mean nothing."""
    if not 0.0 <= dropout_p < 1.0:
        raise InvalidArgument(f"dropout_p is {dropout_p}; it must be at least 0 and below 1.")
    if softmax_scale is not None and not math.isfinite(softmax_scale):
        raise InvalidArgument(f"softmax_scale is {softmax_scale}; it must be finite.")
    if not (math.isfinite(softcap) and softcap >= 0):
        raise InvalidArgument(f"softcap is {softcap}; it must be 0 (none) or positive.")
    pair = isinstance(window_size, tuple | list) and len(window_size) == 2
    if not pair or not all(isinstance(side, int) for side in window_size):
        raise InvalidArgument(
            f"window_size is {window_size!r}; it must be two integers, keys before and keys after "
            "a query, -1 for all."
        )


def check_dropout_seed(seed: int | None) -> None:
    """Raises InvalidArgument unless the seed is None or a non-negative 63-bit integer."""
    if seed is None:
        return
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InvalidArgument(
            f"dropout_seed is {seed!r}; it must be an integer of 0 to 2**63 - 1, the same on "
            "every rank, or None for one drawn from torch's generator."
        )


def check_alibi_slopes(slopes: Tensor | None, q: Tensor) -> None:
    """Raises InvalidArgument unless slopes are None, or float32 (H,) or (B, H) on q's device."""
    if slopes is None:
        return
    allowed = ((q.shape[2],), (q.shape[0], q.shape[2]))
    if tuple(slopes.shape) not in allowed:
        raise InvalidArgument(
            f"alibi_slopes has shape {tuple(slopes.shape)}; allowed are (heads,) = {allowed[0]} "
            f"and (batch, heads) = {allowed[1]}."
        )
    if slopes.dtype is not torch.float32:
        raise InvalidArgument(f"alibi_slopes is {_name(slopes.dtype)}; it must be float32.")
    if slopes.device != q.device:
        raise InvalidArgument(f"alibi_slopes is on {slopes.device}, but q is on {q.device}.")
    if slopes.requires_grad:
        raise InvalidArgument("alibi_slopes requires a gradient, and there is none for it.")


def check_sink(sink: Tensor | None, q: Tensor) -> None:
    """Raises InvalidArgument unless the sink is None, or (H,) of a float dtype on q's device."""
    if sink is None:
        return
    if not isinstance(sink, Tensor) or tuple(sink.shape) != (q.shape[2],):
        got = tuple(sink.shape) if isinstance(sink, Tensor) else type(sink).__name__
        raise InvalidArgument(
            f"sink must be a tensor of shape (heads,) = ({q.shape[2]},), one logit for each query "
            f"head; got {got}."
        )
    if not sink.is_floating_point():
        raise InvalidArgument(f"sink is {_name(sink.dtype)}; it must be a floating dtype.")
    if sink.device != q.device:
        raise InvalidArgument(f"sink is on {sink.device}, but q is on {q.device}.")


def problem_of(
    q: Tensor,
    v: Tensor,
    heads_kv: int,
    world_size: int,
    mask: Mask,
    *,
    softcap: float,
    alibi: bool,
    dropout_p: float,
    deterministic: bool,
    backward: bool,
) -> Problem:
    """The whole problem of which q and v are one rank's shards."""
    return Problem(
        batch=q.shape[0],
        seqlen=q.shape[1] * world_size,
        heads_q=q.shape[2],
        heads_kv=heads_kv,
        head_dim=q.shape[3],
        head_dim_v=v.shape[3],
        dtype=cast(DtypeName, _name(q.dtype)),
        device="cuda" if q.is_cuda else "cpu",
        mask=mask,
        softcap=softcap,
        alibi=alibi,
        dropout_p=dropout_p,
        deterministic=deterministic,
        backward=backward,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
