"""Which weights a call dropped, as signs: what return_attn_probs gives beside lse.

Of kernels that drop by position the pattern is known without them (`contract/dropout.py`); of one
with a pattern of its own nothing is known, and there is None.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench.calls.attend import Given
from ring_attn_bench.contract.backend import drops_by_position
from ring_attn_bench.contract.dropout import numbers, threshold
from ring_attn_bench.one_device.call import LocalCall, aligned
from ring_attn_bench.one_device.documents import DocumentsCall
from ring_attn_bench.one_device.one_by_one import OneByOne, of_document
from ring_attn_bench.one_device.one_launch import OneLaunch
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Score


def of_sequence(call: LocalCall, given: Given) -> Tensor | None:
    """(B, H, M, N) in q's dtype: 1 where a weight stayed, -1 where it was dropped."""
    backend, score = (
        (call.backend, call.score)
        if isinstance(call, OneLaunch)
        else (call.job.backend, call.job.score)
    )
    if not drops_by_position(backend):
        return None
    q, (batch, count, heads, _) = given.q, given.q.shape
    rows, keys = (_positions(span, q.device) for span in aligned(count, given.k.shape[1]))
    found = q.new_empty(batch, heads, len(rows), len(keys))
    for entry in range(batch):
        _write(found[entry], score, entry * heads, rows, keys)
    return found


def of_documents(call: DocumentsCall, given: Given) -> Tensor | None:
    """(documents, H, longest queries, longest keys) in q's dtype, and 0 beyond a document's end.

    Nothing waits for a GPU, but a kernel that is called for each document does anyway.
    """
    alone = isinstance(call.kernel, OneByOne)
    backend = call.kernel.backend if isinstance(call.kernel, OneByOne) else call.kernel
    if not drops_by_position(backend):
        return None
    q, heads = given.q, given.q.shape[1]
    starts = call.documents(given)
    lengths = starts.cu_seqlens_q.diff(), starts.cu_seqlens_k.diff()
    rows, keys = (
        torch.arange(longest, device=q.device) for longest in (call.max_seqlen_q, call.max_seqlen_k)
    )
    found = q.new_zeros(len(lengths[0]), heads, len(rows), len(keys))
    for index, (ours, theirs) in enumerate(zip(*lengths, strict=True)):
        # the last query stands at the last key; positions count from 0, or from the first key
        before = theirs - ours
        at = (rows + before.clamp(min=0), keys - before.clamp(max=0)) if alone else (
            rows + before, keys
        )  # fmt: skip
        score, first = (of_document(call.score, index), 0) if alone else (call.score, index * heads)
        _write(found[index], score, first, *at)
        found[index].masked_fill_((rows >= ours)[:, None] | (keys >= theirs), 0.0)
    return found


def _positions(span: Span, device: torch.device) -> Tensor:
    return torch.arange(span.start, span.start + span.count, device=device)


def _write(found: Tensor, score: Score, first: int, rows: Tensor, keys: Tensor) -> None:
    """The signs of some heads (H, M, N), of which the first has the number `first`."""
    for head, signs in enumerate(found):  # one at a time: its numbers take 8 bytes each
        stream = torch.full((), first + head, device=found.device)
        kept = numbers(score.dropout_seed, stream, rows, keys) >= threshold(score.dropout_p)
        signs.copy_(kept).mul_(2).sub_(1)
