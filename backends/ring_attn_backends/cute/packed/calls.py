"""The contract's packed calls, each kept as launches (`cute.kept`).

What is kept is told a number of documents and no length: other lengths launch it again as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ring_attn_backends.cute.kept import enqueue
from ring_attn_backends.cute.packed.launch import dkdv_call, dq_call, forward_call
from ring_attn_bench.contract.tensors import Sums

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.contract.tensors import Keys, Rows
    from ring_attn_bench.plan.problem import Documents, Score


def forward(q: Tensor, keys: Keys, documents: Documents, score: Score) -> tuple[Tensor, Tensor]:
    """The contract's `packed_forward`."""
    out = q.new_empty(*q.shape[:2], keys.v.shape[-1])
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    forward_into(q, keys, out, lse, documents, score)
    return out, lse


def forward_into(
    q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score
) -> None:
    """The contract's `packed_forward_into`."""
    if _sees_nothing(q, keys, documents):
        out.zero_()
        lse.fill_(-float("inf"))
        return
    enqueue(
        ("packed forward", documents.mask), score,
        (q, *keys, out, lse, documents.cu_seqlens_q, documents.cu_seqlens_k),
        lambda: [forward_call(q, keys, out, lse, documents, score)],
    )  # fmt: skip


def backward(rows: Rows, keys: Keys, documents: Documents, score: Score) -> Sums:
    """The contract's `packed_backward`."""
    sums = Sums(*(x.new_empty(x.shape) for x in (rows.q, *keys)))
    backward_into(rows, keys, sums, documents, score)
    return sums


def backward_into(rows: Rows, keys: Keys, sums: Sums, documents: Documents, score: Score) -> None:
    """The contract's `packed_backward_into`."""
    if _sees_nothing(rows.q, keys, documents):
        for x in sums:
            x.zero_()
        return
    delta = () if rows.delta is None else (rows.delta,)
    starts = documents.cu_seqlens_q, documents.cu_seqlens_k
    enqueue(
        ("packed backward", documents.mask), score,
        (rows.q, *keys, rows.dout, rows.lse, *sums, *starts, *delta),
        lambda: _backward_calls(rows, keys, sums, documents, score),
    )  # fmt: skip


def _backward_calls(
    rows: Rows, keys: Keys, sums: Sums, documents: Documents, score: Score
) -> Iterator[Call]:
    yield dq_call(rows, keys, sums.dq, documents, score)
    yield dkdv_call(rows, keys, sums.dk, sums.dv, documents, score)


def _sees_nothing(q: Tensor, keys: Keys, documents: Documents) -> bool:
    """Whether there are no queries or no keys, or no documents."""
    return 0 in (q.shape[0], keys.k.shape[0], len(documents.cu_seqlens_q) - 1)
