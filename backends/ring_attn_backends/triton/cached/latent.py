"""Keys too wide to be loaded beside values, whose first columns are the values.

Multi-head latent attention decodes so (DeepSeek-AI 2024, DeepSeek-V2, section 2.1): all query heads
over one key head of 576 columns, 512 of which are v.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ring_attn_backends.triton import MAX_HEAD_DIM
from ring_attn_backends.triton.plain.table import Tiling

if TYPE_CHECKING:
    from ring_attn_bench.plan.cached import CachedProblem

MOST_OF_V, MOST_OTHERS = 512, 128
"""Columns of a k wider than MAX_HEAD_DIM that are v too, and others."""

TABLE = {16: Tiling(16, 64, 8, 3), 32: Tiling(32, 64, 8, 3), 64: Tiling(64, 64, 8, 2)}
"""By the rows of a tile: the fastest of the candidates on an H200, of 16 heads and of 128."""
CANDIDATES = tuple(
    Tiling(rows, keys, 8, stages)
    for rows in (16, 32, 64)
    for keys, stages in ((64, 3), (64, 2), (32, 3), (32, 2))
    if (rows, keys, stages) != (64, 64, 3)  # 288 KiB
)
"""What `scripts/decode_speed.py --latent HEADS --sweep` tries."""
RESIDENT = 1
"""Programs that a multiprocessor has room for: two tiles of 64 keys of 576 columns are 144 KiB."""


def is_wide(head_dim: int) -> bool:
    """Whether k and v have no room beside each other."""
    return head_dim > MAX_HEAD_DIM


def refusal(problem: CachedProblem) -> str | None:
    """Why a k that is so wide cannot be served, or None."""
    head_dim, head_dim_v = problem.head_dim, problem.head_dim_v
    too_wide = f"it has no head_dim above {MAX_HEAD_DIM} (got {head_dim})"
    if problem.packed:
        return f"{too_wide} for packed queries over pages"
    if not problem.latent:
        return (
            f"{too_wide} but where v_cache is the first columns of k_cache, in the same memory, as "
            "k_cache[..., :512]"
        )
    others = head_dim - head_dim_v
    if problem.dtype == "float32" or head_dim_v > MOST_OF_V or others > MOST_OTHERS:
        return (
            f"where v_cache is part of k_cache it takes 16 bits, at most {MOST_OF_V} columns of v "
            f"and {MOST_OTHERS} more of k (got {head_dim_v} and {others}, {problem.dtype})"
        )
    return None


def tiling(rows: int) -> Tiling:
    """For that many rows of a key head."""
    return TABLE[min((height for height in TABLE if height >= rows), default=max(TABLE))]
