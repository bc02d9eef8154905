"""A program's way through a worklist: the columns of `shared.worklist`, as a kernel reads them.

A table is its numbers in a row; with a list of Python's the same lines are tested.
"""
# ruff: noqa: ANN001, ANN201 - Python's integers, or a kernel's

from ring_attn_backends.cute.programs import Visit
from ring_attn_backends.shared.worklist import ENTRY, TILE


def tile_of(tiles, number):
    """The tile's first token, where its line stops, and its entries from and to."""
    first, stop, begin, end = (tiles[number * TILE + i] for i in range(4))
    return (first, stop), (begin, end)


def piece_of(tiles, number):
    """The piece that a tile of keys is of."""
    return tiles[number * TILE + 4]


def side_of(entries, number):
    """The piece that is visited; its first token and how many; start, before, whole, edges."""
    about = number * ENTRY
    piece, *where = (entries[about + i] for i in range(4, ENTRY))
    return piece, (entries[about], entries[about + 1]), tuple(where)


def visit_of(entries, number):
    """The same as rows see it, or rows as keys do."""
    length, low, high, _, *where = (entries[number * ENTRY + i] for i in range(1, ENTRY))
    return Visit(length, low, high, tuple(where))
