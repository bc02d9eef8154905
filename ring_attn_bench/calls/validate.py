"""What a caller passed, checked: each mistake is a sentence with what, got and allowed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from ring_attn_bench.calls.dense import check_can_be_sent, check_dense
from ring_attn_bench.calls.options import Options
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.problem import DTYPES, Documents, DtypeName, Problem

_FLOAT32 = torch.finfo(torch.float32)
_PACKED = "tokens", "heads", "dim"


def checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: Options,
    ranks: int | None,
    documents: Documents | None,
) -> Problem:
    """The problem as backends are asked about it, if the arguments can be right.

    options: plain ones. ranks: over which the sequence is dealt, q, k and v being one's shards;
    None on one device. documents: where they are packed.
    Raises InvalidArgument: what, got, allowed.
    """
    dims = _PACKED if documents else ("batch", *_PACKED)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x, dims, may_be_empty=ranks is None)
        if ranks is not None:
            check_can_be_sent(name, x)
    _check_lengths(q, k, v, dealt=ranks is not None)
    _check_fit(q, k, v)
    if documents is None:
        batch, queries, keys = q.shape[0], q.shape[1] * (ranks or 1), k.shape[1] * (ranks or 1)
    else:
        _check_documents(documents, q, k)
        batch = len(documents.cu_seqlens_q) - 1
        # no document has more tokens than there are, and kernels launch for the longest
        queries = min(documents.max_seqlen_q, q.shape[0])
        keys = min(documents.max_seqlen_k, k.shape[0])
    check_numbers(options)
    check_alibi_slopes(options.alibi_slopes, batch, q.shape[-2], q.device)
    check_sink(options.sink, q.shape[-2], q.device)
    backward = _is_differentiated(q, k, v, options, documents)
    return Problem(
        batch=batch,
        seqlen=keys,
        queries=queries,
        heads_q=q.shape[-2],
        heads_kv=k.shape[-2],
        head_dim=q.shape[-1],
        head_dim_v=v.shape[-1],
        dtype=dtype_name(q.dtype),
        device="cuda" if q.is_cuda else "cpu",
        mask=options.mask,
        softcap=options.softcap,
        alibi=options.alibi_slopes is not None,
        dropout_p=options.dropout_p,
        deterministic=options.deterministic,
        backward=backward,
        packed=documents is not None,
    )


def _is_differentiated(
    q: Tensor, k: Tensor, v: Tensor, options: Options, documents: Documents | None
) -> bool:
    """Whether there will be a backward; raises InvalidArgument for what autograd cannot keep."""
    if not torch.is_grad_enabled() or not any(
        x is not None and x.requires_grad for x in (q, k, v, options.sink)
    ):
        return False
    kept = {"q": q, "k": k, "v": v, "sink": options.sink, "alibi_slopes": options.alibi_slopes}
    if documents is not None:
        kept["cu_seqlens_q"] = documents.cu_seqlens_q
        kept["cu_seqlens_k"] = documents.cu_seqlens_k
    for name, x in kept.items():
        if x is not None and x.is_inference():
            raise InvalidArgument(
                f"{name} was made in inference mode, and autograd keeps no such tensor for the "
                f"backward; pass {name}.clone(), made outside of it, or call under torch.no_grad()."
            )
    return True


def _check_lengths(q: Tensor, k: Tensor, v: Tensor, *, dealt: bool) -> None:
    """Whether q may have another length than k is the way's to say."""
    if dealt and k.shape[1] != v.shape[1]:
        _same("number of tokens", q.shape[1], k.shape[1], v.shape[1])
    if k.shape[-3] != v.shape[-3]:
        raise InvalidArgument(
            f"k has {k.shape[-3]} tokens and v {v.shape[-3]}; they must be the same."
        )


def _check_fit(q: Tensor, k: Tensor, v: Tensor) -> None:
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


def check_tensor(name: str, x: Tensor, dims: tuple[str, ...], *, may_be_empty: bool) -> None:
    """Raises InvalidArgument unless it has these dims, of which only tokens may be empty."""
    check_dense(name, x)
    if x.dim() != len(dims):
        raise InvalidArgument(
            f"{name} has shape {tuple(x.shape)}, but must have {len(dims)} dims: "
            f"({', '.join(dims)})."
        )
    if dtype_name(x.dtype) not in DTYPES:
        raise InvalidArgument(f"{name} is {dtype_name(x.dtype)}; allowed are {', '.join(DTYPES)}.")
    _check_sizes(name, x, dims, may_be_empty)


def _check_sizes(name: str, x: Tensor, dims: tuple[str, ...], may_be_empty: bool) -> None:
    empty = {dim for dim, size in zip(dims, x.shape, strict=True) if not size}
    if empty and not may_be_empty:
        raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; no dim may be empty.")
    if empty - {"tokens"}:
        raise InvalidArgument(f"{name} has shape {tuple(x.shape)}; only tokens may be 0.")


def _same(what: str, q: object, k: object, v: object) -> None:
    if not q == k == v:
        raise InvalidArgument(f"q, k and v must have one {what}, got {q}, {k} and {v}.")


_LOG2E = math.log2(math.e)
_BELOW_1 = 1 - torch.finfo(torch.float32).eps / 2


def check_numbers(options: Options) -> None:
    """Raises InvalidArgument for what is out of range, in float32 too."""
    dropout_p, scale, softcap = options.dropout_p, options.softmax_scale, options.softcap
    if not 0.0 <= dropout_p <= _BELOW_1:
        raise InvalidArgument(
            f"dropout_p is {dropout_p}; it must be at least 0 and below 1, in float32 too "
            f"(at most {_BELOW_1:.8f})."
        )
    # beyond float32, in which kernels compute, a finite number is infinite and a small one 0
    # (times log2(e), which some multiply it by)
    if scale is not None and not abs(scale) * _LOG2E <= _FLOAT32.max:
        raise InvalidArgument(
            f"softmax_scale is {scale}; it must be finite, in float32 too "
            f"(at most {_FLOAT32.max / _LOG2E:.3g})."
        )
    if softcap and not _FLOAT32.tiny <= softcap <= _FLOAT32.max:
        raise InvalidArgument(
            f"softcap is {softcap}; it must be 0 or less (none), or positive, in float32 too "
            f"({_FLOAT32.tiny:.3g} to {_FLOAT32.max:.3g})."
        )


def check_alibi_slopes(slopes: Tensor | None, batch: int, heads: int, device: torch.device) -> None:
    """Raises InvalidArgument unless they are float32 (heads,) or (batch, heads), on q's device."""
    if slopes is None:
        return
    check_dense("alibi_slopes", slopes)
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
    """Raises InvalidArgument unless it is a logit for each head, on q's device."""
    if sink is None:
        return
    what = f"a tensor of shape (heads,) = ({heads},), one logit for each query head"
    check_dense("sink", sink, what)
    if tuple(sink.shape) != (heads,):
        raise InvalidArgument(f"sink must be {what}; got {tuple(sink.shape)}.")
    if dtype_name(sink.dtype) not in DTYPES:
        raise InvalidArgument(
            f"sink is {dtype_name(sink.dtype)}; it must be a floating dtype: {', '.join(DTYPES)}."
        )
    if sink.device != device:
        raise InvalidArgument(f"sink is on {sink.device}, but q is on {device}.")


def check_packed(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> None:
    """Raises InvalidArgument unless these can be packed documents, whatever is done with them."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x, _PACKED, may_be_empty=True)
    _check_lengths(q, k, v, dealt=False)
    _check_fit(q, k, v)
    _check_documents(documents, q, k)


def check_used(used: Tensor, documents: int, k: Tensor) -> None:
    """Raises InvalidArgument unless it can say how many keys of each document are used."""
    check_dense("seqused_k", used, what := f"a tensor of shape (documents,) = ({documents},)")
    if tuple(used.shape) != (documents,):
        raise InvalidArgument(f"seqused_k must be {what}, got {tuple(used.shape)}.")
    if used.dtype is not torch.int32:
        raise InvalidArgument(f"seqused_k is {dtype_name(used.dtype)}; it must be int32.")
    if used.device != k.device:
        raise InvalidArgument(f"seqused_k is on {used.device}, but the tokens are on {k.device}.")


def _check_documents(documents: Documents, q: Tensor, k: Tensor) -> None:
    check_documents(documents, q, k)
    # what cu_seqlens hold is looked at on a CPU only: on a GPU that would stall the queue
    if not q.is_cuda:
        check_starts(documents, q, k)


def check_documents(documents: Documents, q: Tensor, k: Tensor) -> None:
    """Raises InvalidArgument unless they can be documents of q and k, whatever cu_seqlens hold."""
    sides = (
        ("q", documents.cu_seqlens_q, documents.max_seqlen_q, q),
        ("k", documents.cu_seqlens_k, documents.max_seqlen_k, k),
    )
    for side, starts, longest, x in sides:
        check_tensor_of_starts(f"cu_seqlens_{side}", starts, x)
        check_longest(side, longest)
    ours, theirs = (len(starts) for _, starts, _, _ in sides)
    if ours != theirs:
        raise InvalidArgument(
            f"cu_seqlens_q is for {ours - 1} documents and cu_seqlens_k for {theirs - 1}; they "
            "must be as many."
        )


def check_longest(side: str, longest: int) -> None:
    """Raises InvalidArgument for what is no length; side: q or k."""
    if not 0 <= longest < 2**63:  # as `plain.integer`
        raise InvalidArgument(
            f"max_seqlen_{side} is {shown(longest)}; it must be the length of the longest "
            "document, an integer of 0 or more and of at most 64 bits."
        )


def check_starts(documents: Documents, q: Tensor, k: Tensor) -> None:
    """What cu_seqlens of the right shape hold; waits for the GPU where they are on one."""
    both = documents.cu_seqlens_q, documents.cu_seqlens_k
    ours, theirs = read("cu_seqlens_q and cu_seqlens_k", *both)
    check_rise("q", ours, int(documents.max_seqlen_q), q.shape[0])
    check_rise("k", theirs, int(documents.max_seqlen_k), k.shape[0])


def read(names: str, *tensors: Tensor) -> list[list[int]]:
    """The numbers of tensors of one length; waits for the GPU where they are on one."""
    try:
        numbers: list[list[int]] = torch.stack(tensors).tolist()
    except RuntimeError as error:
        if "CUDA error" in str(error):  # of what was queued before
            raise
        raise _numberless(names) from None
    if any(type(x) is not int for row in numbers for x in row[:1]):  # a symbol, of what is traced
        raise _numberless(names)
    return numbers


def _numberless(names: str) -> InvalidArgument:
    return InvalidArgument(
        f"{names} hold no numbers that can be read here: they are on the meta "
        "device, batched by vmap, fake or traced; calls are planned by where documents begin, so "
        "pass real tensors of int32, in a call for each of them."
    )


def check_tensor_of_starts(name: str, starts: Tensor, x: Tensor) -> None:
    """Raises InvalidArgument unless they are int32 (documents + 1,), where the tokens x are."""
    check_dense(name, starts, what := "a tensor of shape (documents + 1,)")
    if starts.dim() != 1 or len(starts) < 2:
        raise InvalidArgument(f"{name} must be {what}, got {tuple(starts.shape)}.")
    if starts.dtype is not torch.int32:
        raise InvalidArgument(f"{name} is {dtype_name(starts.dtype)}; it must be int32.")
    if starts.device != x.device:
        raise InvalidArgument(f"{name} is on {starts.device}, but the tokens are on {x.device}.")


def check_rise(side: str, starts: list[int], longest: int, tokens: int | None) -> None:
    """Raises InvalidArgument unless documents lie one behind another, none longer than is said.

    tokens: where the last one must end; None where that is no matter. side: q or k.
    """
    lengths = [stop - start for start, stop in pairwise(starts)]
    if starts[0] != 0 or min(lengths) < 0 or tokens not in (None, starts[-1]):
        end = "" if tokens is None else f" to the {tokens} tokens there are"
        raise InvalidArgument(f"cu_seqlens_{side} must rise from 0{end}, got {starts}.")
    if max(lengths) > longest:
        raise InvalidArgument(
            f"max_seqlen_{side} is {longest}, but a document has {max(lengths)} tokens."
        )


def dtype_name(dtype: torch.dtype) -> DtypeName:
    """The name of a checked dtype: float16 of torch.float16."""
    return cast(DtypeName, str(dtype).removeprefix("torch."))
