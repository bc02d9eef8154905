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


def heads_of(queries: int, keys: int, size: int) -> str:
    """Heads and their size: heads 32:8 of 128."""
    return f"{heads(queries, keys)} of {size}"
