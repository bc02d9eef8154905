"""Which tile of which head a program takes, and the key or row tiles that it visits, in order."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.places import reach

RUN_TIME = ("tiles", "heads", "all_heads", "section", "group", "M", "N", "low", "high")
"""What Triton must not specialise: see `arguments.RUN_TIME`."""


@triton.jit
def tile_and_head(tiles, heads, section):
    """This program's number of a tile and of a head, all batch entries' heads counted through.

    `section` heads at a time share the L2 cache, and take turns at every tile: where tile 0 is the
    one with most to do, the longest programs come first (Shah et al. 2024, FlashAttention-3, has
    the same order). A section of one head is the plain order, head by head.
    """
    program = tl.program_id(0)
    first = program // (section * tiles) * section
    size = tl.minimum(section, heads - first)
    rest = program - first * tiles
    return rest // size, first + rest % size


@triton.jit
def seen(first, last, below, above, length, BLOCK: tl.constexpr):
    """Of `length` tokens the tiles that the tokens first to last see: start, before, whole, edges.

    As `places.reach` has them, for tokens in one chunk: all tiles lie in `whole + edges` from
    `start`, and the whole ones come after `before` of them. Token x sees x + below to x + above.
    """
    left, _, _, _ = reach(first, last, below, above, 0, 0, length, BLOCK, False)
    return left


@triton.jit
def nth(index, where, BLOCK: tl.constexpr):
    """The first token of the index-th of the tiles that `seen` found: edges first, then whole."""
    start, before, whole, edges = where
    is_edge = index < edges
    edge = index + tl.where(index >= before, whole, 0)
    return (start + tl.where(is_edge, edge, index - edges + before)) * BLOCK
