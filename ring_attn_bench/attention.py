"""Attention on one device for users: flash-attn's calls, on any backend.

q (batch, queries, heads_q, head_dim), k (batch, keys, heads_kv, head_dim), v (batch, keys,
heads_kv, head_dim of v), heads_kv dividing heads_q; packed documents (varlen) without the batch
dim. float16, bfloat16, float32 or float64. With more keys than queries, or fewer, the last query
stands at the last key: causal and window_size count from there, as in flash-attn 2.1 and later.
A query that sees no key has out 0 and lse -inf. NaN and infinities are not stopped by a mask:
kernels multiply a hidden key's v by a weight of 0, which leaves NaN in rows of its tile.

The arguments are flash-attn's, and:

    backend          a name from `ring-attn-bench list`; `auto` takes the first that can and logs it
    sink             (heads_q,): a logit of every row besides its keys', with a value of 0
    s_aux, learnable_sink  the same, as Hugging Face and flash-attn 4 call it
    dropout_seed     what is dropped follows from it; default, drawn from torch's CPU generator

A last dim that is not contiguous is copied; a softcap of 0 or less is none.

They return out in q's dtype, with return_attn_probs (out, lse, pattern): lse float32 (float64 of
float64 inputs), natural log, (batch, heads_q, queries) or of documents (heads_q, queries). Both
are differentiable; a kernel that computes delta by itself runs its backward twice if lse has a
gradient. pattern: under dropout 1 where a weight stayed and -1 where it was dropped, masked ones
too, in q's dtype, (batch, heads_q, queries, keys) or (documents, heads_q, longest queries, longest
keys), with 0 beyond a document's end; None without dropout, and of a kernel whose pattern is its
own (`aten` and `flash_attn_2`). They raise InvalidArgument, UnknownName, Unsupported (its text is
the backend's reason) or BackendUnavailable. A feature is used or refused, never dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor
from torch.compiler import is_compiling

from ring_attn_bench.cached.packed import PackedOverPages, attend_packed
from ring_attn_bench.calls.attend import LocalOutput, attend
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import flag
from ring_attn_bench.calls.prepare import prepared, seeded
from ring_attn_bench.calls.sinks import under_one_name
from ring_attn_bench.calls.validate import check_starts
from ring_attn_bench.one_device import dropped
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.one_device.documents_way import OfDocuments
from ring_attn_bench.one_device.used_keys import with_used_keys
from ring_attn_bench.plan.problem import Documents

if TYPE_CHECKING:
    from typing import Unpack

    from ring_attn_bench.signatures import DenseArguments, VarlenArguments

_ONE_DEVICE, _OF_DOCUMENTS = OneDevice(), OfDocuments()


@overload
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
) -> Tensor: ...
@overload
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[DenseArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[DenseArguments],
) -> LocalOutput: ...
def flash_attn_func(  # type: ignore[misc]  # the last overload has more positions than there are
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
) -> LocalOutput:
    """Attention of q over k and v, differentiable in q, k, v and sink.

    A sink may have any size: one that outweighs all scores, or is inf, leaves out 0 and no
    gradients; -inf is none; NaN gives NaN.
    """
    probs = flag("return_attn_probs", return_attn_probs)
    options = Options(
        backend, dropout_p, dropout_seed, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, under_one_name(sink, s_aux, learnable_sink),
    )  # fmt: skip
    if is_compiling():
        from ring_attn_bench.ops import one_device  # a program that traces nothing does without

        return one_device.attention(q, k, v, options, return_attn_probs=probs)
    call, given, options = prepared(q, k, v, options, _ONE_DEVICE)
    call = seeded(call, options)
    found = attend(call, given, return_attn_probs=probs)
    if probs and options.dropout_p:
        return *found[:2], dropped.of_sequence(call, given)
    return found


@overload
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    block_table: Tensor | None = None,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    seqused_k: Tensor | None = None,
) -> Tensor: ...
@overload
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[VarlenArguments],
) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[VarlenArguments],
) -> LocalOutput: ...
def flash_attn_varlen_func(  # type: ignore[misc]  # the last overload has more positions than there are
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
    check_cu_seqlens: bool = False,
    s_aux: Tensor | None = None,
    learnable_sink: Tensor | None = None,
    seqused_k: Tensor | None = None,
) -> LocalOutput:
    """Attention inside each of several documents that lie one after another.

    q (tokens of all documents, heads_q, head_dim), k and v alike. cu_seqlens_q and cu_seqlens_k:
    int32 (documents + 1,), where each document begins and the last one ends. max_seqlen_q and
    max_seqlen_k: at least the longest document's queries and keys. A kernel that takes documents
    packed gets them so; with any other, each document is a call of its own. seqused_k: int32
    (documents,), how many keys of each document there are, from its first; the others count as not
    there, masks and max_seqlen_k too count from the last one used, and k and v are copied once.

    block_table: int32 (documents, pages of a document): k and v are then pages, (pages, page size,
    heads_kv, head_dim), and cu_seqlens_k counts each document's keys in its own. Forward only:
    going backward through it raises InvalidArgument. check_cu_seqlens reads the table too.

    On a CPU starts that do not rise from 0 to all tokens, or a longer document, are refused. On a
    GPU they are too with check_cu_seqlens, which reads them and so waits for all that is queued;
    without it tokens in no document, before the first and behind the last, have out 0, lse -inf
    and gradients 0, whatever they hold; a start counts as no less than those before it and no more
    than there are tokens; and from the first document on that is longer than max_seqlen_q or
    max_seqlen_k says, tokens count as in none.
    """
    probs = flag("return_attn_probs", return_attn_probs)
    is_checked = flag("check_cu_seqlens", check_cu_seqlens)
    options = Options(
        backend, dropout_p, dropout_seed, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, under_one_name(sink, s_aux, learnable_sink),
    )  # fmt: skip
    if is_compiling():
        from ring_attn_bench.ops import one_device

        packed = one_device.Packed(
            cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, block_table, seqused_k,
            is_checked,
        )  # fmt: skip
        return one_device.attention(q, k, v, options, packed, return_attn_probs=probs)
    documents = Documents(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    if block_table is not None:
        pages = PackedOverPages(q, k, v, documents, block_table, seqused_k)
        out, lse = attend_packed(pages, options, checks=is_checked)
        return (out, lse, None) if probs else out
    if seqused_k is not None:
        k, v, documents = with_used_keys(q, k, v, documents, seqused_k, checks=is_checked)
    call, given, options = prepared(q, k, v, options, _OF_DOCUMENTS, documents)
    if is_checked and given.q.is_cuda:
        check_starts(documents, given.q, given.k)
    call = seeded(call, options)
    found = attend(call, given, return_attn_probs=probs)
    if probs and options.dropout_p:
        return *found[:2], dropped.of_documents(call, given)
    return found
