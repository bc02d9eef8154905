"""Which tiles a program must visit, where a block's tokens are one chunk or two.

A *place* is a token's position counted in steps from the first token's: the tokens below `split`
are at the places 0, 1, 2, ..., the others `jump` places further on than their index (or further
back). The mask is a band of places: row and key see each other iff low <= row - key <= high. Tiles
never span two chunks, so that a tile's places are a progression.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit
def tile_of(number, split, jump, length, BLOCK: tl.constexpr, CHUNKED: tl.constexpr):
    """The first token of a tile, where the tokens of its chunk stop, and place less index."""
    first, stop, ahead = number * BLOCK, length, 0
    if CHUNKED:
        number -= tl.cdiv(split, BLOCK)
        right = number >= 0
        first = tl.where(right, split + number * BLOCK, first)
        stop = tl.where(right, length, split)
        ahead = tl.where(right, jump, 0)
    return first, stop, ahead


@triton.jit
def reach(
    first, last, below, above, split, jump, length, BLOCK: tl.constexpr, CHUNKED: tl.constexpr
):
    """The tiles of `length` tokens that the places first to last see, for `visited` to count off.

    Place x sees x + below to x + above. Returns, for each chunk, what `_reach` does; then the
    number of whole tiles and the number of edges, in both.
    """
    if CHUNKED:
        left = _reach(first, last, below, above, split, BLOCK)
        base = split + jump  # the second chunk's first place
        right = _reach(first - base, last - base, below, above, length - split, BLOCK)
        return left, right, left[2] + right[2], left[3] + right[3]
    else:  # noqa: RET505 - Triton would compile what follows a return
        left = _reach(first, last, below, above, length, BLOCK)
        return left, left, left[2], left[3]


@triton.jit
def _reach(first, last, below, above, length, BLOCK: tl.constexpr):
    """start, before, whole, edges: in tiles, all that is seen lies in `whole + edges` from `start`.

    In the `whole` tiles that come after `before` of them every pair is allowed. Those around them
    are the edges, which need a mask: the ends of the band, and the last tile if it is not full.
    """
    start = tl.maximum(first + below, 0) // BLOCK
    stop = tl.cdiv(tl.maximum(tl.minimum(last + above + 1, length), 0), BLOCK)
    stop = tl.maximum(stop, start)
    whole_start = tl.minimum(tl.cdiv(tl.maximum(last + below, 0), BLOCK), stop)
    whole_stop = tl.maximum(tl.minimum(first + above + 1, length), 0) // BLOCK
    whole = tl.maximum(whole_stop - whole_start, 0)
    return start, whole_start - start, whole, stop - start - whole


@triton.jit
def visited(
    index, left, right, split, jump, length,
    BLOCK: tl.constexpr, CHUNKED: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The whole tile, or the edge, of that index, as `tile_of` gives it."""
    start, before, whole = left[0], left[1], left[2]
    base, stop, ahead = 0, length, 0
    if CHUNKED:
        beyond = left[3] if EDGE else left[2]
        is_right = index >= beyond
        index -= tl.where(is_right, beyond, 0)
        start = tl.where(is_right, right[0], start)
        before = tl.where(is_right, right[1], before)
        whole = tl.where(is_right, right[2], whole)
        base = tl.where(is_right, split, 0)
        stop = tl.where(is_right, length, split)
        ahead = tl.where(is_right, jump, 0)
    tile = start + index
    if EDGE:
        tile += tl.where(index >= before, whole, 0)
    else:
        tile += before
    return base + tile * BLOCK, stop, ahead


@triton.jit
def document(cu_seqlens_ptr, number):
    """The first token of a packed document, and how many it has."""
    first = tl.load(cu_seqlens_ptr + number)
    return first, tl.load(cu_seqlens_ptr + number + 1) - first
