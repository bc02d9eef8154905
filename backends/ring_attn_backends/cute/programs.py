"""Which tile of which head a program takes, which tiles of keys it visits, and who holds what.

Integers, and nothing of a GPU: a kernel's numbers are not known when it is compiled, so it hands in
its own `least` and `most`; with Python's the same lines are tested.
"""
# ruff: noqa: ANN001, ANN201 - Python's integers, or a kernel's

from typing import Any, NamedTuple


class Visit(NamedTuple):
    """Keys that rows see: how many, which band of row - key, and in which tiles (`seen`).

    Keys are counted from the first of them. Or rows that keys see, counted in the same way.
    """

    length: Any
    low: Any
    high: Any
    where: Any


def tile_and_head(program, tiles, heads, section, least=min):
    """This program's number of a tile and of a head, all batch entries' heads counted through.

    `section` heads at a time share the L2 cache, and take turns at every tile: where tile 0 is the
    one with most to do, the longest programs come first.
    """
    first = program // (section * tiles) * section
    size = least(section, heads - first)
    rest = program - first * tiles
    return rest // size, first + rest % size


def seen(first, last, low, high, keys, block, least=min, most=max):
    """What rows first to last see of so many keys, in tiles: start, before, whole, edges.

    A row sees a key iff low <= row - key <= high. The `edges + whole` tiles from `start` on are
    visited; the whole ones, `before` of them further, need no mask.
    """
    start = most(first - high, 0) // block
    stop = most((most(least(last - low + 1, keys), 0) + block - 1) // block, start)
    whole_start = least((most(last - high, 0) + block - 1) // block, stop)
    whole_stop = most(least(first - low + 1, keys), 0) // block
    whole = most(whole_stop - whole_start, 0)
    return start, whole_start - start, whole, stop - start - whole


def all_edges(where, cut):
    """The same tiles, of which every one needs a mask if `cut`."""
    start, before, whole, edges = where
    masked = whole * cut
    return start, before, whole - masked, edges + masked


def nth(index, where):
    """The index-th of the tiles that `seen` found: all that need a mask first.

    Without a branch: a comparison of a kernel's is 0 or 1, as Python's is.
    """
    start, before, whole, edges = where
    edge = index + (index >= before) * whole
    return start + edge + (index >= edges) * (index - edges + before - edge)


def row_of(lane, warp, half):
    """The row, of a warpgroup's 64, that a thread holds numbers of (PTX ISA, wgmma, matrix D).

    lane of 32, warp of 4; half 0 or 1: a thread has parts of two rows.
    """
    return 16 * warp + lane // 4 + 8 * half


def column_of(lane, index):
    """The column of a thread's index-th number, which is of the row of half `index // 2 % 2`."""
    return 8 * (index // 4) + index % 2 + 2 * (lane % 4)


def nth_of_heads(index, each, where):
    """The index-th tile of `each` heads, and of which: all edges, head by head, then the others."""
    _, _, whole, edges = where
    is_whole = index >= each * edges
    rest = index - is_whole * (each * edges)
    count = edges + is_whole * (whole - edges)
    head = rest // count
    return head, nth(rest - head * count + is_whole * edges, where)
