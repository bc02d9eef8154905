"""Shapes of attention, in the same words wherever they are shown."""

from __future__ import annotations


def batch(size: int) -> str:
    """Of how many sequences at once: batch 1."""
    return f"batch {size}"


def heads(queries: int, keys: int) -> str:
    """Those of queries and of keys: heads 32:8."""
    return f"heads {queries}:{keys}"


def head_dim(size: int) -> str:
    """Beside `heads`, where it may differ alone: head dim 128."""
    return f"head dim {size}"


def window(left: int | None, right: int | None) -> str:
    """Keys before and after a query, all where it is None or negative: window 128-all, or empty."""
    sides = ["all" if size is None or size < 0 else str(size) for size in (left, right)]
    return "" if sides == ["all", "all"] else f"window {'-'.join(sides)}"


def softcap(value: float | None) -> str:
    """What scores are capped at: softcap 30; empty for none."""
    return f"softcap {value:g}" if value else ""


def documents(word: str | None) -> str:
    """Of which a sequence is packed: documents histogram:0; empty for one sequence."""
    return f"documents {word}" if word else ""


def heads_of(queries: int, keys: int, size: int) -> str:
    """Heads and their size: heads 32:8 of 128."""
    return f"{heads(queries, keys)} of {size}"
