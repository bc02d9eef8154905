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
it. For any other a rank has a launch for each of its documents by itself, and one for each that
crosses to another rank: right, and slow where there are many. So on a GPU `auto` asks the former
first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import pad

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.validate import check_tensor
from ring_attn_bench.document_sharding import CuSeqlens, documents
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.partition import AnyPartition, get_partition
from ring_attn_bench.ring.call import Packed
from ring_attn_bench.ring.context import RingContext, context_of
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

    def deal(ring: RingContext, keys: int, rows: int) -> Packed:
        dealt = _dealt("k", cu_seqlens, partition, ring, keys)
        check_longest("max_seqlen", max_seqlen, dealt.longest)
        if queries is None:
            return dealt, None
        if dealt.void:
            raise InvalidArgument(
                "the documents have seqused, and queries= is given; queries of their own lengths "
                "need keys without padding inside: pass documents of the tokens that are used."
            )
        return dealt, _dealt("q", queries, partition, ring, rows)

    return attended_packed(q, lambda: (q, k, v), deal, asked)


def attended_packed(
    like: object,
    separate: Callable[[], tuple[Tensor, ...]],
    deal: Callable[[RingContext, int, int], Packed],
    asked: Asked,
) -> Output:
    """A call of packed tensors on a ring: with a batch dim inside, and padding as if it were none.

    separate: q, k and v (tokens, heads, dim). deal: the documents of a ring with so many keys and
    so many queries on this rank. Both raise InvalidArgument. like: a tensor of q's device.
    """
    ring = context_of(asked.group, asked.context)
    known: list[tuple[tuple[Tensor, ...], DealtDocuments, DealtDocuments]] = []

    def packed() -> Packed:
        tensors = separate()
        for name, x in zip("qkv", tensors, strict=True):
            check_tensor(name, x, ("tokens", "heads", "dim"), may_be_empty=True)
        counts = [x.shape[0] for x in tensors]
        documents, queries = deal(ring, counts[1], counts[0])
        if counts[1] != counts[2] or (queries is None and counts[0] != counts[1]):
            raise InvalidArgument(
                f"q, k and v must have one number of tokens, got {counts[0]}, {counts[1]} and "
                f"{counts[2]}; queries of their own lengths are told by queries=."
            )
        known.append((tensors, documents, documents if queries is None else queries))
        return documents, queries

    def batched() -> tuple[Tensor, ...]:
        (((q, k, v), keys, rows),) = known
        return tuple(_whole(x, side, ring.rank) for x, side in ((q, rows), (k, keys), (v, keys)))

    def settle(asked: Asked) -> Options:
        return asked.options._replace(partition=known[0][1].partition.name)

    results = attended(ring, like, batched, asked, settle, packed)
    rows = known[0][2]
    if isinstance(results, Tensor):
        return _held(results[0], rows, ring.rank)
    out, lse, nothing = results
    lse = _held(lse[0], rows, ring.rank, dim=1, value=float("-inf"))
    return _held(out[0], rows, ring.rank), lse, nothing


def _whole(x: Tensor, side: DealtDocuments, rank: int) -> Tensor:
    """With a batch dim, and zeros for padding."""
    x = _first(x, side.tokens - side.padding(rank), side.tokens)
    return (_void(x, side, rank, 0, 0.0) if side.void else x)[None]


def _held(x: Tensor, side: DealtDocuments, rank: int, dim: int = 0, value: float = 0.0) -> Tensor:
    """What a rank's tensors hold of a result, with the value for padding."""
    x = _void(x, side, rank, dim, value) if side.void else x
    return _first(x, side.tokens - side.padding(rank), side.held(rank), dim, value)


def _void(x: Tensor, side: DealtDocuments, rank: int, dim: int, value: float) -> Tensor:
    """The value where padding is, inside the sequence too."""
    outside = torch.zeros(side.tokens, dtype=torch.bool, device="cpu")
    for tokens in side.outside(rank):
        outside[tokens.slice] = True
    shape = [1] * x.dim()
    shape[dim] = -1
    return x.masked_fill(outside.to(x.device).view(shape), value)


def _first(x: Tensor, inside: int, tokens: int, dim: int = 0, value: float = 0.0) -> Tensor:
    """The first tokens of x, and behind them the value: so many inside, and so many of them all.

    Whatever x has behind them, not even a NaN comes out of it.
    """
    if inside == x.shape[dim] == tokens:
        return x
    behind = (0, 0) * (x.dim() - 1 - dim) + (0, tokens - inside)
    return pad(x.narrow(dim, 0, inside), behind, value=value)


def _dealt(
    side: str,
    cu_seqlens: CuSeqlens | DealtDocuments,
    partition: AnyPartition | None,
    ring: RingContext,
    tokens: int,
) -> DealtDocuments:
    ranks = ring.world_size
    if not isinstance(cu_seqlens, DealtDocuments):
        if partition is None:
            raise InvalidArgument(
                "partition is None; it must say how the packed sequence was dealt, as 'zigzag', or "
                "cu_seqlens must be what documents(...) made, which has it."
            )
        if isinstance(partition, str) and partition in DEALS:
            raise InvalidArgument(
                f"partition {partition!r} deals each batch by itself; pass the value by which it "
                f"was dealt, documents(cu_seqlens, {partition!r}, ...), in place of cu_seqlens."
            )
        return documents(cu_seqlens, partition, ranks, tokens * ranks)
    if partition is not None and get_partition(partition) != cu_seqlens.partition:
        raise InvalidArgument(
            f"partition is {shown(partition)}, but the documents were dealt by "
            f"{cu_seqlens.partition.name!r}; leave it out."
        )
    held = cu_seqlens.held(ring.rank) if ring.rank < cu_seqlens.world_size else cu_seqlens.tokens
    if (cu_seqlens.world_size, held) != (ranks, tokens):
        raise InvalidArgument(
            f"the documents are of {held} tokens on rank {ring.rank} of {cu_seqlens.world_size}, "
            f"but {side} has {tokens} on one of {ranks}; make them for this ring, with seqlen= "
            "where the sequence is padded, or uneven=True where it is not and does not divide."
        )
    return cu_seqlens


def check_longest(name: str, told: int | None, longest: int) -> None:
    """Raises InvalidArgument for a longest document that is shorter than one is."""
    if told is not None and integer(name, told) < longest:
        raise InvalidArgument(
            f"{name} is {told}, but a document has {longest} tokens; pass that, or more."
        )
