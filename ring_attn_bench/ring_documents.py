"""Packed documents on a ring: flash-attn's varlen call, on tokens that are dealt to ranks.

Documents lie behind one another in one packed sequence, which a partition deals to the ranks as it
deals any other: a document may be on one rank, on several, or on all. `cu_seqlens` says where each
begins in the whole sequence and after the last one where it ends, alike on every rank; tokens
behind that are padding, which may hold anything: out 0, lse -inf, no gradients. q (tokens, heads_q,
head_dim), k (tokens, heads_kv, head_dim) and v (tokens, heads_kv, head_dim of v) are this rank's
shard, without a batch dim. Causality, windows and ALiBi count inside a document; a rank fetches
only keys of documents of which it has tokens.

What follows from the documents is made once for a batch: pass `documents(...)` instead of a tensor
to the call of each layer. A tensor of integers on a CPU costs a call some 0.1 ms for 1,000
documents; one on a GPU is read, which waits for the GPU once a call.

A kernel that takes keys of all ranks in one launch (`triton`, `reference`) takes all documents in
it. One that takes documents packed has one launch for all of them too, when the keys have come, but
by stripes, where it has a few for each rank. For any other a rank has a launch for each of its
documents by itself, and one for each that crosses to another rank: right, and slow where there are
many. So on a GPU `auto` asks the first ones first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import flag
from ring_attn_bench.document_sharding import CuSeqlens
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.partition import AnyPartition
from ring_attn_bench.ring.call import Packed
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring.packed import AnyTold, Deal, Sides, Told
from ring_attn_bench.ring_attention import Asked, attended, ring_attention

if TYPE_CHECKING:
    from typing import Unpack

    from ring_attn_bench.signatures import RingDocumentsArguments


@overload
def ring_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: CuSeqlens | DealtDocuments,
    max_seqlen: int | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: Literal[False] = False,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    *,
    partition: AnyPartition | None = None,
    queries: CuSeqlens | DealtDocuments | None = None,
    backend: str | None = "auto",
    softcap: float = 0.0,
    dropout_seed: int | None = None,
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Tensor: ...
@overload
def ring_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: CuSeqlens | DealtDocuments,
    max_seqlen: int | None = None,
    *,
    return_attn_probs: Literal[True],
    **arguments: Unpack[RingDocumentsArguments],
) -> tuple[Tensor, Tensor, None]: ...
@overload
def ring_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: CuSeqlens | DealtDocuments,
    max_seqlen: int | None = None,
    *positional: Any,  # noqa: ANN401 - too long a list to be told apart
    return_attn_probs: bool = ...,
    **arguments: Unpack[RingDocumentsArguments],
) -> Output: ...
def ring_attn_varlen_func(  # type: ignore[misc]  # the last overload has more positions than there are
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: CuSeqlens | DealtDocuments,
    max_seqlen: int | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    group: dist.ProcessGroup | DeviceMesh | None = None,
    *,
    partition: AnyPartition | None = None,
    queries: CuSeqlens | DealtDocuments | None = None,
    backend: str | None = "auto",
    softcap: float = 0.0,
    dropout_seed: int | None = None,
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Output:
    """Attention of this rank's queries over their documents, on any partition and number of ranks.

    cu_seqlens: of the whole packed sequence, alike on every rank, or what `documents` made of them,
    which has the partition. queries: where documents' queries begin, or their value, if they are
    others than the keys (cross attention): of each document the last query stands at the last key,
    and one that sees no key has out 0 and lse -inf. max_seqlen: the longest document of keys, or
    more; None asks nobody. lse is (heads_q, tokens). alibi_slopes (heads_q,), alike for all
    documents. What is dropped follows from positions in the packed sequence, so from no partition.
    The other arguments, what is returned and raised: help("ring_attn_bench.ring_attention"); this
    module's help says more.
    """
    asked = ring_attention(
        dropout_p, softmax_scale, causal, window_size, alibi_slopes, deterministic,
        return_attn_probs, group, partition="", backend=backend, softcap=softcap,
        dropout_seed=dropout_seed, sink=sink, context=context,
    )  # fmt: skip

    told = Told(cu_seqlens, partition, max_seqlen, queries)
    if is_compiling():
        return as_operator((q, k, v), told, asked)
    return attended_packed(q, lambda: (q, k, v), told.deal, asked)


def as_operator(tensors: tuple[Tensor, ...], told: AnyTold, asked: Asked) -> Output:
    """An operator of the call, for whoever traces it."""
    from ring_attn_bench.ops import ring_documents as traced  # what is never traced does without

    flag("return_attn_probs", asked.return_attn_probs)
    return traced.attention(tensors, told, *asked)


def attended_packed(
    like: object,
    separate: Callable[[], tuple[Tensor, ...]],
    deal: Deal,
    asked: Asked,
) -> Output:
    """A call of packed tensors on a ring: with a batch dim inside, and padding as if it were none.

    separate: q, k and v (tokens, heads, dim). It and deal raise InvalidArgument. like: a tensor of
    q's device.
    """
    ring = context_of(asked.group, asked.context)
    known: list[tuple[tuple[Tensor, ...], Sides]] = []

    def packed() -> Packed:
        tensors = separate()
        sides = Sides.of(tensors, deal, ring)
        known.append((tensors, sides))
        return sides.packed

    def batched() -> tuple[Tensor, ...]:
        (((q, k, v), sides),) = known
        return sides.whole(q, k, v)

    def settle(asked: Asked) -> Options:
        return asked.options._replace(partition=known[0][1].partition)

    results = attended(ring, like, batched, asked, settle, packed)
    sides = known[0][1]
    if isinstance(results, Tensor):
        return sides.rows.held(results[0])
    out, lse, nothing = results
    return *sides.held(out, lse), nothing
