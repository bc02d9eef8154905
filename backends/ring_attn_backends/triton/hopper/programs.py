"""Which tile of which head a program takes, and the key or row tiles that it visits, in order.

A *side*, rows or keys, is a tuple (batch entry, first token, number of tokens): a whole entry, or a
document of those packed into entry 0.
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton import lines
from ring_attn_backends.triton.places import document, reach
from ring_attn_backends.triton.tiles import matrix, vector

FAR = tl.constexpr(lines.FAR)

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
def sides(batch, cu_rows_ptr, cu_keys_ptr, M, N, low, high):
    """Rows and keys of a batch entry, or where cu_seqlens are given of a document, and its band.

    The last row and the last key of a document are at one place. Keys alone that have a table are
    shares of a cache's: `cached.extents` has its numbers, an entry may have several, and results
    are then the share's own (`results_of`).
    """
    zero = batch * 0
    rows, keys = (batch, zero, M), (batch, zero, N)
    if cu_rows_ptr is not None:
        row_token, M = document(cu_rows_ptr, batch)
        key_token, N = document(cu_keys_ptr, batch)
        rows, keys = (zero, row_token, M), (zero, key_token, N)
        low, high = low - (N - M), high - (N - M)
    elif cu_keys_ptr is not None:
        cu_keys_ptr += 4 * batch
        key_token, N = tl.load(cu_keys_ptr), tl.load(cu_keys_ptr + 1)
        behind = tl.load(cu_keys_ptr + 2) - M
        rows, keys = (tl.load(cu_keys_ptr + 3), zero, M), (zero, key_token, N)
        low, high = low - behind, high - behind
    return rows, keys, low, high


@triton.jit
def results_of(rows, batch, cu_rows_ptr):
    """The side where what is computed of rows goes, whose batch entry is this program's."""
    into = rows
    if cu_rows_ptr is None:
        into = (batch, rows[1], rows[2])
    return into


@triton.jit
def place(desc, side, token, head):
    """Where TMA finds the tile that begins at a token of the side; desc: by `descriptors.tiles`.

    What lies outside of the side arrives as 0.
    """
    if len(desc.block_shape) == 5:  # documents: `descriptors._ragged` tells why
        return FAR, side[1] + side[2], FAR - side[2] + token, head, 0
    else:  # noqa: RET505 - Triton would compile what follows a return
        return side[0], token, head, 0


@triton.jit
def matrix_of(side, head, base, strides):
    """Where the side's matrix of a head begins: `tiles.matrix`."""
    return matrix(base, strides, side[0].to(tl.int64), head.to(tl.int64), side[1], True)


@triton.jit
def vector_of(side, head, base, strides):
    """Where the side's vector over tokens begins: `tiles.vector`."""
    return vector(base, strides, side[0].to(tl.int64), head.to(tl.int64), side[1], True)


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
