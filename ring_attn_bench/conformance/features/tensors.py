"""Lengths, and how tensors lie in memory."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.conformance.cases import FULL, LOCAL, BlockCase, Storage, lengths
from ring_attn_bench.conformance.feature import Chapter, Feature
from ring_attn_bench.plan.positions import Span


def square(tokens: int) -> BlockCase:
    """Causal with that many tokens."""
    return replace(lengths(LOCAL, tokens), title=f"causal, {tokens} x {tokens}")


def full(rows: int, keys: int) -> BlockCase:
    """Not causal, with that many of each."""
    case = replace(lengths(FULL, rows, keys), rows=(Span(200, rows),))
    return replace(case, title=f"full, {rows} x {keys}")


def stored(storage: Storage, title: str, what: str) -> Feature:
    """A feature of one way to lie in memory."""
    local = replace(LOCAL, title=f"causal, {what}", storage=storage, batch=3)
    return Feature(
        f"strides_{storage}", title,
        (
            replace(local, heads=4, key_heads=2),
            replace(FULL, title=f"full, {what}", storage=storage),
        ),
    )  # fmt: skip


LENGTHS = Chapter(
    "Lengths",
    (
        Feature(
            "sq_ne_sk", "sq != sk, non-causal",
            (full(33, 129), full(131, 59), replace(full(60, 61), heads=4)),
            (full(130, 770), full(770, 130)),
        ),
        Feature(
            "odd_lengths", "no multiple of a tile",
            (square(77), square(129), full(127, 127),
             replace(square(67), title="causal, 67 x 67, grouped heads", heads=6, key_heads=2)),
            (square(1021), full(1021, 509), square(257)),
        ),
        Feature("one_row", "one query", (replace(full(1, 70), heads=4), full(1, 128))),
        Feature("one_key", "one key", (full(70, 1), square(1), full(1, 1))),
        Feature("two_tokens", "two tokens", (replace(square(2), batch=3), full(2, 2))),
        Feature(
            "batch", "batch 1 and above 2",
            (
                replace(LOCAL, title="causal, batch 1", batch=1, heads=4),
                replace(LOCAL, title="causal, batch 5", batch=5, heads=1, key_heads=1),
                replace(FULL, title="full, batch 3", batch=3),
            ),
        ),
    ),
)  # fmt: skip

STRIDES = Chapter(
    "Strides",
    (
        stored("token_major", "token-major views", "token-major views"),
        stored("heads_first", "heads-first views", "heads-first views"),
        stored("packed", "views of packed qkv or kv", "views of packed tensors"),
        stored("cut", "cut out of wider heads", "cut out of wider heads"),
        stored("expanded", "expanded (stride 0)", "expanded views"),
    ),
)
