"""Packed queries over a cache of pages: prefill, as flash-attn's varlen function takes it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ring_attn_bench.cached.call import computed
from ring_attn_bench.cached.choose import choose_cached
from ring_attn_bench.cached.contents import check_pages, check_range
from ring_attn_bench.cached.forward_only import forward_only
from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.cached.validate import capacity_of, check_cache
from ring_attn_bench.calls.layout import in_a_row, rows_in_a_row, with_unit_stride
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.prepare import within_float32
from ring_attn_bench.calls.validate import (
    check_alibi_slopes,
    check_documents,
    check_numbers,
    check_rise,
    check_sink,
    check_tensor,
    check_used,
    dtype_name,
    read,
)
from ring_attn_bench.contract.cache import Cache, CachedCall
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.outside import Pair, Results, Starts, fill, settled
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Documents, Score


@dataclass(frozen=True, slots=True)
class PackedOverPages:
    """q (T, H, D) of all documents, over k (P, S, G, D) and v (P, S, G, E).

    documents: cu_seqlens_k counts each document's keys, which lie in the pages of its row of the
    block table. used: int32 (documents,), how many of them there are, from the first; None is all.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    documents: Documents
    block_table: Tensor
    used: Tensor | None = None

    def plain(self) -> PackedOverPages:
        """The same: tensors as kernels read them, numbers of Python's own type."""
        told = self.documents
        return PackedOverPages(
            with_unit_stride(self.q), with_unit_stride(self.k), with_unit_stride(self.v),
            Documents(
                in_a_row(told.cu_seqlens_q), in_a_row(told.cu_seqlens_k),
                integer("max_seqlen_q", told.max_seqlen_q),
                integer("max_seqlen_k", told.max_seqlen_k),
            ),
            with_unit_stride(self.block_table),
            None if self.used is None else in_a_row(self.used),
        )  # fmt: skip

    @property
    def as_cache(self) -> CacheGiven:
        """What is checked of it as of any call over a cache."""
        return CacheGiven(self.q, self.k, self.v, block_table=self.block_table)


def attend_packed(
    given: PackedOverPages, options: Options, *, checks: bool = False
) -> tuple[Tensor, Tensor]:
    """out (T, H, E) and lse (H, T), rows in no document 0 and -inf.

    checks: whether to read starts, counts and tables on a GPU too, and refuse wrong ones.

    Raises InvalidArgument, UnknownName, Unsupported or BackendUnavailable; going backward through
    them raises InvalidArgument.
    """
    given = given.plain()
    options = within_float32(options.plain(), given.q)
    problem = _checked(given, options)
    kernel = choose_cached(options.backend, problem)
    q, told, tokens = rows_in_a_row(given.q), given.documents, len(given.q)
    if checks or not q.is_cuda:
        _check_contents(given, problem)
    longest = min(told.max_seqlen_q, tokens), min(told.max_seqlen_k, problem.capacity)
    sound = _settled(given, problem, longest)
    score = options.score(problem.head_dim)
    if options.alibi_slopes is not None:
        score = Score(score.softmax_scale, score.softcap, in_a_row(options.alibi_slopes))
    if options.softmax_scale is not None and options.softmax_scale <= 0:
        q = with_unit_stride(options.folded(q))
    cache = Cache(given.k, given.v, sound[1].diff(), rows_in_a_row(given.block_table))
    call = CachedCall(q, cache, problem.mask, score, starts=sound[0], longest=longest[0])
    with torch.no_grad():
        out, lse = computed(kernel, call, options.sink)
    fill(sound, Results(out, lse))
    return forward_only(out, lse, (given.q, given.k, given.v, options.sink))


def _checked(given: PackedOverPages, options: Options) -> CachedProblem:
    q, told = given.q, given.documents
    check_tensor("q", q, ("tokens", "heads", "dim"), may_be_empty=True)
    for name, x in (("k", given.k), ("v", given.v)):
        check_tensor(name, x, ("pages", "page size", "heads", "dim"), may_be_empty=False)
    check_cache(given.as_cache, ("k", "v"))
    check_documents(told, q, q)  # of k's starts there is no more to say: its tokens are in pages
    batch = len(told.cu_seqlens_q) - 1
    if given.used is not None:
        check_used(given.used, batch, q)
    capacity = capacity_of(given.as_cache, batch)
    check_numbers(options)
    if options.dropout_p:
        raise InvalidArgument(
            f"dropout_p is {options.dropout_p}, and attention over a cache has no dropout: pass 0."
        )
    check_alibi_slopes(options.alibi_slopes, batch, q.shape[1], q.device)
    check_sink(options.sink, q.shape[1], q.device)
    return CachedProblem(
        batch=batch,
        queries=min(told.max_seqlen_q, len(q)),
        capacity=capacity,
        heads_q=q.shape[1],
        heads_kv=given.k.shape[2],
        head_dim=q.shape[2],
        head_dim_v=given.v.shape[3],
        dtype=dtype_name(q.dtype),
        device="cuda" if q.is_cuda else "cpu",
        mask=options.mask,
        softcap=options.softcap,
        alibi=options.alibi_slopes is not None,
        page_size=given.k.shape[1],
        packed=True,
    )


def _settled(given: PackedOverPages, problem: CachedProblem, longest: Pair) -> Starts:
    """Sound starts of queries, and of those keys alone that are used."""
    told, tokens = given.documents, len(given.q)
    room = tokens, min(problem.batch * problem.capacity, 2**31 - 1)
    starts = told.cu_seqlens_q, told.cu_seqlens_k
    if given.used is not None:  # max_seqlen_k counts what is used, and what is not may be more
        ours, theirs = settled(starts, room, (tokens, problem.capacity))
        starts = ours, _from_0(given.used.clamp(min=0).minimum(theirs.diff()))
    return settled(starts, room, longest)


def _from_0(lengths: Tensor) -> Tensor:
    return torch.cat((lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)))


def _check_contents(given: PackedOverPages, problem: CachedProblem) -> None:
    """What starts, counts and tables hold; waits for the GPU where they are on one."""
    told = given.documents
    ours, starts = read("cu_seqlens_q and cu_seqlens_k", told.cu_seqlens_q, told.cu_seqlens_k)
    check_rise("q", ours, told.max_seqlen_q, len(given.q))
    check_rise("k", starts, told.max_seqlen_k if given.used is None else starts[-1], None)
    lengths = [stop - start for start, stop in pairwise(starts)]
    check_range("the length of a document", lengths, problem.capacity)
    if given.used is not None:
        (used,) = read("seqused_k", given.used)
        for number, length in zip(used, lengths, strict=True):
            check_range("seqused_k", [number], length, "the keys of the document")
        check_rise("k", list(accumulate(used, initial=0)), told.max_seqlen_k, None)
        lengths = used
    check_pages(given.block_table, given.as_cache, lengths)
