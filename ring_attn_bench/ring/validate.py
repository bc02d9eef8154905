"""Checks of what a caller passed: each mistake is a sentence with what, got and allowed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.problem import DTYPES, Documents, DtypeName, Mask, Problem


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises InvalidArgument unless q, k, v are shards of one self-attention."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x, ("batch", "tokens", "heads", "dim"))
        if 0 in x.shape:
            raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; no dim may be empty.")
    _same("number of tokens", q.shape[1], k.shape[1], v.shape[1])
    check_fit(q, k, v)


def check_attention(q: Tensor, k: Tensor, v: Tensor, dims: tuple[str, ...]) -> None:
    """Raises InvalidArgument unless q can attend to k and v.

    dims: their names, ("batch", "tokens", "heads", "dim") or, of packed documents, without a
    batch. There may be no tokens, and more or fewer queries than keys.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check_tensor(name, x, dims)
        empty = [dim for dim, size in zip(dims, x.shape, strict=True) if not size]
        if set(empty) - {"tokens"}:
            raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; only tokens may be 0.")
    if k.shape[-3] != v.shape[-3]:
        raise InvalidArgument(
            f"k has {k.shape[-3]} tokens and v {v.shape[-3]}; they must be the same."
        )
    check_fit(q, k, v)


def check_fit(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises InvalidArgument unless dtype, device, batch, heads and head dims fit together."""
    _same("dtype", q.dtype, k.dtype, v.dtype)
    _same("device", q.device, k.device, v.device)
    if q.dim() == 4:
        _same("batch size", q.shape[0], k.shape[0], v.shape[0])
    if k.shape[-2] != v.shape[-2]:
        raise InvalidArgument(
            f"k has {k.shape[-2]} heads and v {v.shape[-2]}; they must be the same."
        )
    if q.shape[-2] % k.shape[-2]:
        raise InvalidArgument(
            f"q has {q.shape[-2]} heads and k {k.shape[-2]}: the query heads must be a multiple of "
            "the key heads."
        )
    if q.shape[-1] != k.shape[-1]:
        raise InvalidArgument(
            f"q has head dim {q.shape[-1]} and k {k.shape[-1]}; they must be the same."
        )


def _check_tensor(name: str, x: Tensor, dims: tuple[str, ...]) -> None:
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"{name} must be a tensor, got {type(x).__name__}.")
    if x.dim() != len(dims):
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}, but must have {len(dims)} dims: "
            f"({', '.join(dims)})."
        )
    if dtype_name(x.dtype) not in DTYPES:
        raise InvalidArgument(f"{name} is {dtype_name(x.dtype)}; allowed are {', '.join(DTYPES)}.")
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


def check_alibi_slopes(slopes: Tensor | None, batch: int, heads: int, device: torch.device) -> None:
    """Raises InvalidArgument unless slopes are None, or float32 (H,) or (B, H) on the device."""
    if slopes is None:
        return
    allowed = ((heads,), (batch, heads))
    if tuple(slopes.shape) not in allowed:
        raise InvalidArgument(
            f"alibi_slopes has shape {tuple(slopes.shape)}; allowed are (heads,) = {allowed[0]} "
            f"and (batch, heads) = {allowed[1]}."
        )
    if slopes.dtype is not torch.float32:
        raise InvalidArgument(f"alibi_slopes is {dtype_name(slopes.dtype)}; it must be float32.")
    if slopes.device != device:
        raise InvalidArgument(f"alibi_slopes is on {slopes.device}, but q is on {device}.")
    if slopes.requires_grad:
        raise InvalidArgument("alibi_slopes requires a gradient, and there is none for it.")


def check_sink(sink: Tensor | None, heads: int, device: torch.device) -> None:
    """Raises InvalidArgument unless the sink is None, or (H,) of a float dtype on the device."""
    if sink is None:
        return
    if not isinstance(sink, Tensor) or tuple(sink.shape) != (heads,):
        got = tuple(sink.shape) if isinstance(sink, Tensor) else type(sink).__name__
        raise InvalidArgument(
            f"sink must be a tensor of shape (heads,) = ({heads},), one logit for each query "
            f"head; got {got}."
        )
    if not sink.is_floating_point():
        raise InvalidArgument(f"sink is {dtype_name(sink.dtype)}; it must be a floating dtype.")
    if sink.device != device:
        raise InvalidArgument(f"sink is on {sink.device}, but q is on {device}.")


def check_documents(documents: Documents, q: Tensor, k: Tensor) -> None:
    """Raises InvalidArgument unless the documents fit q (T, H, D) and k (S, G, D).

    What cu_seqlens hold is looked at on a CPU only: on a GPU that would stall the queue.
    """
    sides = (
        ("q", documents.cu_seqlens_q, documents.max_seqlen_q, q),
        ("k", documents.cu_seqlens_k, documents.max_seqlen_k, k),
    )
    for side, starts, longest, x in sides:
        _check_starts(f"cu_seqlens_{side}", starts, x)
        if not isinstance(longest, int) or longest < 0:
            raise InvalidArgument(
                f"max_seqlen_{side} is {longest!r}; it must be the length of the longest document."
            )
        if not starts.is_cuda:
            _check_lengths(side, starts.tolist(), longest, x.shape[0])
    ours, theirs = (len(starts) for _, starts, _, _ in sides)
    if ours != theirs:
        raise InvalidArgument(
            f"cu_seqlens_q is for {ours - 1} documents and cu_seqlens_k for {theirs - 1}; they "
            "must be as many."
        )


def _check_starts(name: str, starts: Tensor, x: Tensor) -> None:
    if not isinstance(starts, Tensor) or starts.dim() != 1 or len(starts) < 2:
        got = tuple(starts.shape) if isinstance(starts, Tensor) else type(starts).__name__
        raise InvalidArgument(f"{name} must be a tensor of shape (documents + 1,), got {got}.")
    if starts.dtype is not torch.int32:
        raise InvalidArgument(f"{name} is {dtype_name(starts.dtype)}; it must be int32.")
    if starts.device != x.device:
        raise InvalidArgument(f"{name} is on {starts.device}, but the tokens are on {x.device}.")


def _check_lengths(side: str, starts: list[int], longest: int, tokens: int) -> None:
    lengths = [stop - start for start, stop in pairwise(starts)]
    if starts[0] != 0 or starts[-1] != tokens or min(lengths) < 0:
        raise InvalidArgument(
            f"cu_seqlens_{side} must rise from 0 to the {tokens} tokens there are, got {starts}."
        )
    if max(lengths) > longest:
        raise InvalidArgument(
            f"max_seqlen_{side} is {longest}, but a document has {max(lengths)} tokens."
        )


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
        dtype=dtype_name(q.dtype),
        device="cuda" if q.is_cuda else "cpu",
        mask=mask,
        softcap=softcap,
        alibi=alibi,
        dropout_p=dropout_p,
        deterministic=deterministic,
        backward=backward,
    )


def dtype_name(dtype: torch.dtype) -> DtypeName:
    """The name of a checked dtype: float16 of torch.float16."""
    return cast(DtypeName, str(dtype).removeprefix("torch."))
