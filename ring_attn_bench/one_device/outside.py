"""What lies outside of packed documents, and starts of documents that cannot be right.

On a GPU nobody knows where documents begin: looking would stall the queue. So what the starts say
is made sound there, once for all kernels, and tokens that are then in no document are filled in:

- a start counts as no less than those before it, and as 0 to the number of tokens there are;
- the first document with more queries or keys than max_seqlen says ends all: it and those after it
  are empty. A kernel has no programs for its last tokens, and would leave them as they were;
- rows in no document have out 0, lse -inf and dq 0, keys in none dk 0 and dv 0.

One kernel on a GPU, torch on a CPU. Where all is well its programs end after a look at the starts.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

Starts = tuple[Tensor, Tensor]
"""Of documents' queries and of their keys, and after the last where they end."""
Pair = tuple[int, int]
"""A number of queries and one of keys."""


class Results(NamedTuple):
    """Tensors that are to be filled in: by query, out or dq (T, H, E) and lse (H, T); by key."""

    rows: Tensor | None = None
    lse: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None


NOTHING = Results()


def settled(
    starts: Starts, tokens: Pair, longest: Pair, results: Results = NOTHING, seen: Hashable = None
) -> Starts:
    """Sound starts; tokens: how many there are, longest: how many a document has at most.

    results: filled in outside of the documents; inside, what they hold stays. seen: what their
    shapes and dtypes follow from, if they were just made, contiguous: that spares a look at them.
    """
    if starts[0].is_cuda:
        from ring_attn_bench.one_device import outside_triton

        sound = torch.empty_like(starts[0]), torch.empty_like(starts[1])
        outside_triton.settle(starts, sound, tokens, longest, results, seen)
        return sound
    sound = _sound(starts, tokens, longest)
    fill(sound, results)
    return sound


def fill(sound: Starts, results: Results) -> None:
    """Fills in what is outside of documents with sound starts."""
    if sound[0].is_cuda:
        from ring_attn_bench.one_device import outside_triton

        outside_triton.fill(sound, results)
        return
    rows, lse, dk, dv = results
    _fill(sound[0], rows, 0.0)
    _fill(sound[0], None if lse is None else lse.T, float("-inf"))
    _fill(sound[1], dk, 0.0)
    _fill(sound[1], dv, 0.0)


def _sound(starts: Starts, tokens: Pair, longest: Pair) -> Starts:
    q, k = (x.clamp(0, count).cummax(0).values for x, count in zip(starts, tokens, strict=True))
    too_long = (q.diff() > longest[0]) | (k.diff() > longest[1])
    if not too_long.any():
        return q, k
    first = int(too_long.int().argmax())
    return q.clamp(max=q[first]), k.clamp(max=k[first])


def _fill(starts: Tensor, tokens: Tensor | None, value: float) -> None:
    """Writes the value into tokens, which are the first dim."""
    if tokens is not None:
        tokens[: int(starts[0])] = value
        tokens[int(starts[-1]) :] = value
