"""Attention of rows with padding or several documents: their tokens without gaps, and back."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ring_attn_bench.attention import flash_attn_varlen_func


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor,
    **named: Any,  # noqa: ANN401 - those of flash_attn_varlen_func
) -> Tensor:
    """out (batch, queries, heads_q, head_dim of v), 0 where no token is.

    q (batch, queries, heads_q, head_dim), k and v alike with as many keys or more, of which the
    first are taken; documents: as `masks.documents` numbers the keys. The queries are the last of
    the keys, as in a cache. Waits for the GPU.
    """
    batch, queries = q.shape[:2]
    there = documents.shape[1]
    k, v = (x[:, :there].flatten(0, 1) for x in (k, v))
    entries = torch.arange(batch, device=q.device)[:, None] * (documents.max() + 1)
    numbers = torch.where(documents > 0, documents + entries, 0)
    of_k, of_q = numbers.flatten(), numbers[:, there - queries :].flatten()
    at_k, at_q = (x.nonzero().flatten() for x in (of_k, of_q))
    each, counts_k = of_k[at_k].unique_consecutive(return_counts=True)
    counts_q = torch.bincount(torch.searchsorted(each, of_q[at_q]), minlength=len(each))
    # one wait for both
    longest_q, longest_k = torch.stack([counts_q.max(), counts_k.max()]).tolist()
    out = flash_attn_varlen_func(
        q.flatten(0, 1)[at_q], k[at_k], v[at_k], _starts(counts_q), _starts(counts_k),
        longest_q, longest_k, **named,
    )  # fmt: skip
    found = cast(Tensor, out)  # no return_attn_probs
    whole: Tensor = found.new_zeros(batch * queries, *found.shape[1:]).index_copy(0, at_q, found)
    return whole.view(batch, queries, *found.shape[1:])


def _starts(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
