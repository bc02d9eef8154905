"""Packed documents: sequences that lie behind one another in one row of tokens.

Tokens see none of another document. A document's tokens lie in a row, so the distance of two of
them is that of their positions in the whole row: bands, windows and ALiBi's bias need to know
nothing of where a document begins, and what a plan needs is which tokens are of one document.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.positions import Span

Starts = tuple[int, ...]
"""Where each document begins, and after the last one where it ends: cu_seqlens."""

OUTSIDE = -1
"""The number of the document that tokens behind the last one are in, which sees nothing."""


def check_starts(starts: Starts, tokens: int) -> None:
    """Raises InvalidArgument unless documents lie one behind another in so many tokens."""
    if len(starts) < 2 or starts[0] != 0 or any(b < a for a, b in pairwise(starts)):
        raise InvalidArgument(
            f"cu_seqlens must rise from 0, with a number for each document and one more, got "
            f"{_shortened(starts)}."
        )
    if starts[-1] > tokens:
        raise InvalidArgument(
            f"cu_seqlens end at {starts[-1]}, but the ranks hold {tokens} tokens together; they "
            "are of the whole packed sequence, alike on every rank."
        )


def cut(span: Span, starts: Starts) -> Iterator[tuple[Span, int]]:
    """The span's parts that are of one document each, with the document's number."""
    at, left = span.start, span.count
    while left:
        document = bisect_right(starts, at) - 1
        if document == len(starts) - 1:
            yield Span(at, left, span.step), OUTSIDE
            return
        inside = min(left, -(-(starts[document + 1] - at) // span.step))
        yield Span(at, inside, span.step), document
        at, left = at + inside * span.step, left - inside


def _shortened(starts: Starts) -> str:
    return str(list(starts)) if len(starts) <= 9 else f"[{', '.join(map(str, starts[:8]))}, ...]"
