"""A batch of packed documents as a value, and how data loaders deal by it.

`documents` makes one frozen value of a batch, which every layer's call takes in place of
`cu_seqlens` (`ring_documents`); its `.partition` deals whatever else is dealt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ring_attn_bench.calls.dense import INT32_MAX, check_dense, checked_device
from ring_attn_bench.calls.options import Options, Window
from ring_attn_bench.calls.plain import flag, integer
from ring_attn_bench.calls.validate import read
from ring_attn_bench.errors import InvalidArgument, UnknownName, shown
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import NONE, DealtDocuments, Starts, Void, check_starts, cut
from ring_attn_bench.plan.partition import PARTITIONS, AnyPartition, Partition, get_partition
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.refill import check_room, refill
from ring_attn_bench.plan.room import Room
from ring_attn_bench.plan.written import written

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
    uneven: bool = False,
    seqused: CuSeqlens | None = None,
    capacity: int | None = None,
) -> DealtDocuments:
    """One batch's documents as a value that calls, layers and data loaders share.

    cu_seqlens: of the whole packed sequence, integers or a tensor of them; a GPU's is read, which
    waits for the GPU. partition: of a sequence, by name or as data; or one that deals each batch by
    itself: `balanced`, pieces of one length so that all ranks have as much work, or `head_tail`,
    each document as zigzag deals a sequence. The value's `.partition` is that of this batch.
    seqlen: tokens of the packed sequence, padding included; default, where the last document ends.
    uneven: whether ranks hold no padding: the sequence is dealt as the next longer one that can be,
    and ranks whose last tokens would be padding have fewer (`.held(rank)`), some even none. So any
    length goes to any number of ranks.
    seqused: how many tokens of each document are used, from its first; the others are padding, as
    behind the last document, and `balanced` counts them as work. None is all of them.
    capacity: the most documents that a later batch has, where a pass that is captured into a CUDA
    graph with this value is to serve others, which `refill_documents` writes; it takes `triton`,
    and each rank then fetches all keys. None is no room for others.
    causal, window_size: of the calls; `balanced` counts their work, and a call with another mask is
    right all the same.

    Raises InvalidArgument for starts that do not rise from 0 and for a length that cannot be dealt,
    or UnknownName; and where it is traced, which it is not to be: graphs take the value.
    """
    if is_compiling():
        raise InvalidArgument(
            "documents(...) is called in what is compiled, where nothing can be read; make the "
            "value outside and pass it in: it is an input of the graph, and another one compiles "
            "nothing."
        )
    made = dealt_documents(
        cu_seqlens, partition, world_size, seqlen, causal=causal, window_size=window_size,
        uneven=uneven, seqused=seqused,
    )  # fmt: skip
    if capacity is not None:
        most = integer("capacity", capacity)
        check_room(made, most)
        made = replace(made, room=Room(most))
    return as_graph_input(made)


def refill_documents(captured: DealtDocuments, batch: DealtDocuments) -> None:
    """Makes calls that were captured with one value, of a capacity, calls of another batch's.

    What their launches read is written on the device, in its current stream: replay the graph
    after that. From then on the captured value stands for the batch, also in calls that are none
    of a graph; so not between a forward and its backward. Both have as many ranks and tokens, and
    end at one place.

    Raises InvalidArgument for documents without a capacity, and for a batch that does not fit,
    before anything is written.
    """
    for value in (captured, batch):
        _check_rank(0, value)
    refill(captured, batch.now)


def as_graph_input(documents: DealtDocuments) -> DealtDocuments:
    """The same value, with the tensor that a traced graph takes of it."""
    text = written(documents)
    if text is not None:
        made = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        object.__setattr__(documents, "traced", made)  # it says nothing that the value does not
    return documents


def dealt_documents(
    cu_seqlens: CuSeqlens,
    partition: AnyPartition,
    world_size: int,
    seqlen: int | None = None,
    *,
    causal: bool = True,
    window_size: Window = (-1, -1),
    uneven: bool = False,
    seqused: CuSeqlens | None = None,
) -> DealtDocuments:
    """As `documents`, for a call that nobody traces."""
    starts, ranks = starts_of(cu_seqlens), integer("world_size", world_size)
    if not starts:  # the rest is checked of the value that is made
        check_starts(starts)
    if not 1 <= ranks <= INT32_MAX:
        raise InvalidArgument(
            f"world_size is {ranks}; it must be at least 1, and at most {INT32_MAX}."
        )
    uneven = flag("uneven", uneven)
    if uneven and seqlen is not None:
        raise InvalidArgument(
            f"seqlen is {shown(seqlen)} and uneven is True; uneven shards hold no padding, so "
            "leave out one of the two."
        )
    mask = Options(causal=causal, window_size=window_size).plain().mask
    deal = DEALS.get(partition) if isinstance(partition, str) else None
    if isinstance(partition, str) and deal is None and partition not in PARTITIONS:
        raise UnknownName("partition", partition, (*PARTITIONS, *DEALS))
    rule = get_partition("contiguous" if deal is not None else partition)
    whole = starts[-1] if seqlen is None else integer("seqlen", seqlen)
    if uneven and isinstance(rule, Partition):
        unit = rule.chunks_per_rank * ranks
        whole = max(1, -(-whole // unit)) * unit
    tokens = rule.tokens_per_rank(whole, ranks)
    if tokens > INT32_MAX:
        raise InvalidArgument(
            f"a sequence of {whole} tokens gives {tokens} to each of {ranks} ranks, and no rank "
            f"holds more than {INT32_MAX}."
        )
    if deal is not None:
        check_starts(starts, whole)
        rule = deal(starts, ranks, tokens, mask.band)
    used, void = (starts, NONE) if seqused is None else _without_padding(starts, seqused)
    return DealtDocuments(used, rule, ranks, tokens, uneven, void)


def _without_padding(starts: Starts, seqused: CuSeqlens) -> tuple[Starts, Void]:
    """The starts, with what is not used of a document as one of its own; and which these are."""
    lengths, counts = [b - a for a, b in pairwise(starts)], starts_of(seqused, "seqused")
    if len(counts) != len(lengths) or any(
        not 0 <= used <= length for used, length in zip(counts, lengths, strict=True)
    ):
        raise InvalidArgument(
            f"seqused is {shown(seqused)}; it must be a number for each of the {len(lengths)} "
            "documents, from 0 to its length."
        )
    made, void = [0], set()
    for start, length, used in zip(starts, lengths, counts, strict=False):
        if used:
            made.append(start + used)
        if used < length:
            void.add(len(made) - 1)
            made.append(start + length)
        if not length:
            made.append(start)
    return tuple(made), frozenset(void)


def shard_documents(x: Tensor, documents: DealtDocuments, rank: int, dim: int = 0) -> Tensor:
    """Rank's tokens of x, whose dim `dim` is the packed sequence; a copy, differentiable.

    Of uneven documents x has no padding, of others as much as they were made with. Raises
    InvalidArgument for another length, for a rank that there is not, and for what is no value of
    documents.
    """
    check_dense("x", x)
    rank, documents = _check_rank(rank, documents), documents.now
    dim, whole = integer("dim", dim), documents.world_size * documents.tokens
    length = documents.starts[-1] if documents.uneven else whole
    if not -x.dim() <= dim < x.dim() or x.shape[dim] != length:
        raise InvalidArgument(
            f"x has shape {tuple(x.shape)} and dim is {dim}; that dim must be the packed sequence "
            f"of {length} tokens."
        )
    at = torch.cat([_at(span) for span in documents.spans(rank)])
    return x.index_select(dim, at[: documents.held(rank)].to(x.device))


def document_position_ids(
    documents: DealtDocuments, rank: int, device: torch.device | None = None
) -> Tensor:
    """Positions of rank's tokens in their documents, int64 (held,): what rotary embeddings need.

    Padding counts on from where the last document ends, from 0. Raises InvalidArgument for a rank
    or a device that there is not, and for what is no value of documents.
    """
    rank, where = _check_rank(rank, documents), checked_device(device)
    documents = documents.now
    found = [
        _at(part) - documents.starts[number]  # of padding, -1, where the last one ends
        for span in documents.spans(rank)
        for part, number in cut(span, documents.starts)
    ]
    return torch.cat(found)[: documents.held(rank)].to(where)


def _at(span: Span) -> Tensor:
    return torch.arange(span.start, span.last + 1, span.step, device="cpu")


def _check_rank(rank: object, documents: object) -> int:
    if not isinstance(documents, DealtDocuments):
        raise InvalidArgument(
            f"documents is {shown(documents)}; it must be a value that documents(cu_seqlens, "
            "partition, world_size) made."
        )
    number = integer("rank", rank)
    if not 0 <= number < documents.world_size:
        raise InvalidArgument(
            f"rank is {number}; the documents are dealt to {documents.world_size} ranks, so it "
            f"must be in [0, {documents.world_size})."
        )
    return number


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
