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
crosses to another rank: right, and slow where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import pad

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.validate import check_tensor, read
from ring_attn_bench.errors import InvalidArgument, UnknownName, shown
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import DealtDocuments, Starts, check_starts, cut
from ring_attn_bench.plan.partition import PARTITIONS, AnyPartition, get_partition
from ring_attn_bench.ring.context import RingContext, context_of
from ring_attn_bench.ring_attention import Asked, attended, ring_attention

if TYPE_CHECKING:
    from typing import Unpack

    from ring_attn_bench.signatures import RingDocumentsArguments

CuSeqlens = Sequence[int] | Tensor
"""Where documents begin, and after the last one where it ends: integers."""


def documents(
    cu_seqlens: CuSeqlens,
    partition: AnyPartition,
    world_size: int,
    seqlen: int | None = None,
    *,
    causal: bool = True,
    window_size: Window = (-1, -1),
) -> DealtDocuments:
    """One batch's documents as a value that calls, layers and data loaders share.

    cu_seqlens: of the whole packed sequence, integers or a tensor of them; a GPU's is read, which
    waits for the GPU. partition: of a sequence, by name or as data; or one that deals each batch by
    itself: `balanced`, pieces of one length so that all ranks have as much work, or `head_tail`,
    each document as zigzag deals a sequence. The value's `.partition` is that of this batch.
    seqlen: tokens of the packed sequence, padding included; default, where the last document ends.
    causal, window_size: of the calls; `balanced` counts their work, and a call with another mask is
    right all the same.

    Raises InvalidArgument for starts that do not rise from 0 and for a length that cannot be dealt,
    or UnknownName.
    """
    starts, ranks = starts_of(cu_seqlens), integer("world_size", world_size)
    if ranks < 1:
        raise InvalidArgument(f"world_size is {ranks}; it must be at least 1.")
    whole = starts[-1] if seqlen is None else integer("seqlen", seqlen)
    if isinstance(partition, str) and partition in DEALS:
        tokens = get_partition("contiguous").tokens_per_rank(whole, ranks)
        check_starts(starts, whole)
        mask = Options(causal=causal, window_size=window_size).plain().mask
        dealt = DEALS[partition](starts, ranks, tokens, mask.band)
        return DealtDocuments(starts, dealt, ranks, tokens)
    if isinstance(partition, str) and partition not in PARTITIONS:
        raise UnknownName("partition", partition, (*PARTITIONS, *DEALS))
    rule = get_partition(partition)
    return DealtDocuments(starts, rule, ranks, rule.tokens_per_rank(whole, ranks))


def document_position_ids(
    documents: DealtDocuments, rank: int, device: torch.device | None = None
) -> Tensor:
    """Positions of rank's tokens in their documents, int64 (tokens,): what rotary embeddings need.

    Padding counts on from where the last document ends, from 0. Raises InvalidArgument for a rank
    that there is not.
    """
    rank = integer("rank", rank)
    if not 0 <= rank < documents.world_size:
        raise InvalidArgument(
            f"rank is {rank}; the documents are dealt to {documents.world_size} ranks, so it must "
            f"be in [0, {documents.world_size})."
        )
    found: list[int] = []
    for span in documents.spans(rank):
        for part, number in cut(span, documents.starts):
            first = documents.starts[number]  # of padding, -1, where the last one ends
            found.extend(at - first for at in part.positions())
    return torch.tensor(found, dtype=torch.int64, device="cpu").to(device)


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
    backend: str | None = "auto",
    softcap: float = 0.0,
    dropout_seed: int | None = None,
    sink: Tensor | None = None,
    context: RingContext | None = None,
) -> Output:
    """Attention of this rank's queries over their documents, on any partition and number of ranks.

    cu_seqlens: of the whole packed sequence, alike on every rank, or what `documents` made of them,
    which has the partition. max_seqlen: the longest document, or more; None asks nobody. lse is
    (heads_q, tokens). alibi_slopes (heads_q,), alike for all documents. What is dropped follows
    from positions in the packed sequence, so from no partition. The other arguments, what is
    returned and raised: help("ring_attn_bench.ring_attention"); this module's help says more.
    """
    asked = ring_attention(
        dropout_p, softmax_scale, causal, window_size, alibi_slopes, deterministic,
        return_attn_probs, group, partition="", backend=backend, softcap=softcap,
        dropout_seed=dropout_seed, sink=sink, context=context,
    )  # fmt: skip

    def deal(ring: RingContext, tokens: int) -> DealtDocuments:
        dealt = _dealt(cu_seqlens, partition, ring.world_size, tokens)
        check_longest("max_seqlen", max_seqlen, dealt.longest)
        return dealt

    return attended_packed(q, lambda: (q, k, v), deal, asked)


def attended_packed(
    like: object,
    separate: Callable[[], tuple[Tensor, ...]],
    deal: Callable[[RingContext, int], DealtDocuments],
    asked: Asked,
) -> Output:
    """A call of packed tensors on a ring: with a batch dim inside, and padding as if it were none.

    separate: q, k and v (tokens, heads, dim). deal: the documents of a ring with so many tokens on
    each rank. Both raise InvalidArgument. like: a tensor of q's device.
    """
    ring = context_of(asked.group, asked.context)
    known: list[tuple[tuple[Tensor, ...], DealtDocuments]] = []

    def packed() -> DealtDocuments:
        tensors = separate()
        for name, x in zip("qkv", tensors, strict=True):
            check_tensor(name, x, ("tokens", "heads", "dim"), may_be_empty=False)
        documents = deal(ring, tensors[0].shape[0])
        known.append((tensors, documents))
        return documents

    def batched() -> tuple[Tensor, ...]:
        ((tensors, documents),) = known
        padding = documents.padding(ring.rank)
        return tuple(_with_padding(x, padding, 0, 0.0)[None] for x in tensors)

    def settle(asked: Asked) -> Options:
        return asked.options._replace(partition=known[0][1].partition.name)

    results = attended(ring, like, batched, asked, settle, packed)
    padding = known[0][1].padding(ring.rank)
    if isinstance(results, Tensor):
        return _with_padding(results[0], padding, 0, 0.0)
    out, lse, nothing = results
    return (
        _with_padding(out[0], padding, 0, 0.0),
        _with_padding(lse[0], padding, 1, float("-inf")),
        nothing,
    )


def _with_padding(x: Tensor, padding: int, dim: int, value: float) -> Tensor:
    """x, whose last tokens hold the value, whatever they held: not even a NaN comes out of them."""
    if not padding:
        return x
    kept = x.narrow(dim, 0, x.shape[dim] - padding)
    behind = (0, 0) * (x.dim() - 1 - dim) + (0, padding)
    return pad(kept, behind, value=value)


def _dealt(
    cu_seqlens: CuSeqlens | DealtDocuments, partition: AnyPartition | None, ranks: int, tokens: int
) -> DealtDocuments:
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
    if (cu_seqlens.world_size, cu_seqlens.tokens) != (ranks, tokens):
        raise InvalidArgument(
            f"the documents are of {cu_seqlens.tokens} tokens on each of {cu_seqlens.world_size} "
            f"ranks, but q has {tokens} on one of {ranks}; make them for this ring, with seqlen= "
            "where the sequence is padded."
        )
    return cu_seqlens


def check_longest(name: str, told: int | None, longest: int) -> None:
    """Raises InvalidArgument for a longest document that is shorter than one is."""
    if told is not None and integer(name, told) < longest:
        raise InvalidArgument(
            f"{name} is {told}, but a document has {longest} tokens; pass that, or more."
        )


def starts_of(cu_seqlens: object, name: str = "cu_seqlens") -> Starts:
    """Whole numbers; raises InvalidArgument. A GPU's tensor is read, which waits for the GPU."""
    what = "a tensor of shape (documents + 1,), or a sequence of integers"
    if isinstance(cu_seqlens, Tensor):
        check_dense(name, cu_seqlens, what)
        if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
            raise InvalidArgument(
                f"{name} is {str(cu_seqlens.dtype).removeprefix('torch.')} of shape "
                f"{tuple(cu_seqlens.shape)}; it must be {what}, int32 or int64."
            )
        return tuple(read(name, cu_seqlens)[0])
    if not isinstance(cu_seqlens, Sequence) or isinstance(cu_seqlens, str | bytes):
        raise InvalidArgument(f"{name} is {shown(cu_seqlens)}; it must be {what}.")
    return tuple(x if type(x) is int else integer(name, x) for x in cu_seqlens)
