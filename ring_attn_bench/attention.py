"""Attention on one device for users: flash-attn's calls, on any backend.

q (batch, queries, heads_q, head_dim), k (batch, keys, heads_kv, head_dim), v (batch, keys,
heads_kv, head_dim of v), heads_kv dividing heads_q; packed documents (varlen) without the batch
dim. float16, bfloat16, float32 or float64. With more keys than queries, or fewer, the last query
stands at the last key: causal and window_size count from there, as in flash-attn 2.1 and later.
A query that sees no key has out 0 and lse -inf.

The arguments are flash-attn's, and:

    backend          a name from `ring-attn-bench list`; `auto` takes the first that can and logs it
    sink             (heads_q,): a logit of every row besides its keys', with a value of 0
    dropout_seed     what is dropped follows from it; default, drawn from torch's CPU generator

They return out in q's dtype, with return_attn_probs (out, lse, None): lse float32 (float64 of
float64 inputs), natural log, (batch, heads_q, queries) or of documents (heads_q, queries). They
raise InvalidArgument, UnknownName, Unsupported (its text is the backend's reason) or
BackendUnavailable. A feature is used or refused, never dropped.
"""

from __future__ import annotations

from torch import Tensor

from ring_attn_bench.errors import Unsupported
from ring_attn_bench.one_device.call import Options, local_call
from ring_attn_bench.one_device.documents import DocumentsAttention
from ring_attn_bench.one_device.one_launch import OneLaunch, OneLaunchAttention
from ring_attn_bench.one_device.packed import Starts, documents_call
from ring_attn_bench.ring.autocast import as_autocast
from ring_attn_bench.ring.autograd import RingAttention

Output = Tensor | tuple[Tensor, Tensor, None]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> Output:
    """Attention of q over k and v, differentiable in q, k, v and sink."""
    options = Options(
        backend, dropout_p, dropout_seed, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, sink,
    )  # fmt: skip
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    call = local_call(q, k, v, options)
    if isinstance(call, OneLaunch):
        out, lse = OneLaunchAttention.apply(q, k, v, call)  # type: ignore[no-untyped-call]
    else:
        out, lse = RingAttention.apply(q, k, v, sink, call)  # type: ignore[no-untyped-call]
    return (out, lse, None) if return_attn_probs else out


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
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    backend: str = "auto",
    sink: Tensor | None = None,
    dropout_seed: int | None = None,
) -> Output:
    """Attention inside each of several documents that lie one after another.

    q (tokens of all documents, heads_q, head_dim), k and v alike. cu_seqlens_q and cu_seqlens_k:
    int32 (documents + 1,), where each document begins and the last one ends. max_seqlen_q and
    max_seqlen_k: at least the longest document's queries and keys (on a GPU they are taken at
    their word, because looking would stall the queue). A kernel that takes documents packed gets
    them so; with any other, each document is a call of its own.
    """
    options = Options(
        backend, dropout_p, dropout_seed, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, sink,
    )  # fmt: skip
    if block_table is not None:
        raise Unsupported(backend, "there is no paged cache (block_table) in packed calls")
    q, k, v = as_autocast(q), as_autocast(k), as_autocast(v)
    starts = Starts(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    call = documents_call(q, k, v, starts, options)
    out, lse = DocumentsAttention.apply(q, k, v, sink, call)  # type: ignore[no-untyped-call]
    return (out, lse, None) if return_attn_probs else out
