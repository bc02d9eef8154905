"""Attention of rows with padding or several documents: their tokens without gaps, and back."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ring_attn_bench.attention import flash_attn_varlen_func
from ring_attn_bench.calls.options import Window
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.integrations.kept import kept_on


class Layout(NamedTuple):
    """Which tokens of (batch * queries,) and (batch * keys,) there are, and where each document of
    them begins and the last one ends, int32 (documents + 1,).

    has_holes: whether a row has padding between tokens.
    """

    at_q: Tensor
    at_k: Tensor
    starts_q: Tensor
    starts_k: Tensor
    longest_q: int
    longest_k: int
    has_holes: bool


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor,
    *,
    causal: bool,
    window_size: Window,
    **named: Any,  # noqa: ANN401 - those of flash_attn_varlen_func
) -> Tensor:
    """out (batch, queries, heads_q, head_dim of v), 0 where no token is.

    q (batch, queries, heads_q, head_dim), k and v alike with as many keys or more, of which the
    first are taken; documents: as `masks.documents` numbers the keys. Causal queries are the last
    of the keys, as in a cache; others with padding may be a decoder's, and each sees all keys of
    its row. Waits for the GPU, once for all layers that are given one documents.

    Raises InvalidArgument for padding between tokens under a window, which counts it.
    """
    batch, queries = q.shape[:2]
    made = kept_on(documents, (queries, causal), partial(_laid_out, documents, queries, causal))
    if made.has_holes and tuple(window_size) != (-1, -1):
        raise InvalidArgument(
            "attention_mask has padding between tokens, which the model's sliding window counts "
            "and this attention leaves out; pad before or behind the tokens, or take "
            "attn_implementation='sdpa' or 'eager'."
        )
    q = q.flatten(0, 1)[made.at_q]
    k, v = (x[:, : documents.shape[1]].flatten(0, 1)[made.at_k] for x in (k, v))
    out = flash_attn_varlen_func(
        q, k, v, *made[2:6], causal=causal, window_size=window_size, **named
    )
    found = cast(Tensor, out)  # no return_attn_probs
    whole: Tensor = found.new_zeros(batch * queries, *found.shape[1:])
    return whole.index_copy(0, made.at_q, found).view(batch, queries, *found.shape[1:])


def _laid_out(documents: Tensor, queries: int, causal: bool) -> Layout:
    batch, keys = documents.shape
    there = torch.nn.functional.pad(documents > 0, (1, 0)).int()
    has_holes = bool(((there.diff() > 0).sum(1) > 1).any())
    if not causal and bool((documents == 0).any()):
        return _each_row_over_its_keys(documents, queries, has_holes)
    if not bool((documents > 0).any()):
        none = documents.new_zeros(0, dtype=torch.int64)
        starts = documents.new_zeros(2, dtype=torch.int32)  # of one document without tokens
        return Layout(none, none, starts, starts, 0, 0, has_holes)
    entries = torch.arange(batch, device=documents.device)[:, None] * (documents.max() + 1)
    numbers = torch.where(documents > 0, documents + entries, 0)
    of_k, of_q = numbers.flatten(), numbers[:, keys - queries :].flatten()
    at_k, at_q = (x.nonzero().flatten() for x in (of_k, of_q))
    each, counts_k = of_k[at_k].unique_consecutive(return_counts=True)
    counts_q = torch.bincount(torch.searchsorted(each, of_q[at_q]), minlength=len(each))
    longest_q, longest_k = torch.stack([counts_q.max(), counts_k.max()]).tolist()
    return Layout(at_q, at_k, _starts(counts_q), _starts(counts_k), longest_q, longest_k, has_holes)


def _each_row_over_its_keys(documents: Tensor, queries: int, has_holes: bool) -> Layout:
    counts = (documents > 0).sum(1)
    at_q = torch.arange(len(documents) * queries, device=documents.device)
    at_k = documents.flatten().nonzero().flatten()
    starts_q, starts_k = _starts(torch.full_like(counts, queries)), _starts(counts)
    return Layout(at_q, at_k, starts_q, starts_k, queries, int(counts.max()), has_holes)


def _starts(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
