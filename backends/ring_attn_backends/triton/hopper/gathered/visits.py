"""A program's way through a worklist: the columns of `worklist`, as a kernel reads them."""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.shared import worklist

TILE, ENTRY = tl.constexpr(worklist.TILE), tl.constexpr(worklist.ENTRY)


@triton.jit
def tile_of(tiles_ptr, number):
    """The tile's first token, where its line stops, its entries from and to, and its piece."""
    about = tiles_ptr + number * TILE
    entries = (tl.load(about + 2), tl.load(about + 3))
    return tl.load(about), tl.load(about + 1), entries, tl.load(about + 4)


@triton.jit
def visit_of(entries_ptr, number):
    """The piece that is visited; its side (see `programs`); start, before, whole, edges."""
    about = entries_ptr + number * ENTRY
    first = tl.load(about)
    return tl.load(about + 4), (first * 0, first, tl.load(about + 1)), _where(about)


@triton.jit
def mask_of(entries_ptr, number):
    """Length, low and high of what is visited; and start, before, whole, edges."""
    about = entries_ptr + number * ENTRY
    return tl.load(about + 1), tl.load(about + 2), tl.load(about + 3), _where(about)


@triton.jit
def _where(about):
    return tl.load(about + 5), tl.load(about + 6), tl.load(about + 7), tl.load(about + 8)
