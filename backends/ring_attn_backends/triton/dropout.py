"""Which weights dropout keeps, tile by tile: bit for bit `ring_attn_bench.contract.dropout`.

Unsigned 32-bit arithmetic; the constants are explained there. A weight costs two multiplications,
six operations of other kinds, and a comparison.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_bench.contract import dropout as spec

HEAD_0, HEAD_1 = tl.constexpr(spec.HEAD_0), tl.constexpr(spec.HEAD_1)
ROW, COLUMN = tl.constexpr(spec.ROW), tl.constexpr(spec.COLUMN)
MULTIPLIER_0 = tl.constexpr(spec.MULTIPLIER_0)
MULTIPLIER_1 = tl.constexpr(spec.MULTIPLIER_1)


@triton.jit
def head_words(word_0, word_1, number, DROPPED: tl.constexpr):
    """Two words of a head, from the seed's and the head's number, batch entry x heads + head.

    DROPPED: whether anybody asks.
    """
    if DROPPED:
        number = number.to(tl.uint32)
        word_0 = _mixed(word_0.to(tl.uint32) + number * HEAD_0)
        word_1 = _mixed(word_1.to(tl.uint32) ^ (number * HEAD_1))
    return word_0, word_1


@triton.jit
def row_words(head_0, head_1, positions):
    """Two words of each row."""
    positions = positions.to(tl.uint32)
    return _mixed(head_0 + positions), head_1 + positions * ROW


@triton.jit
def column_words(positions):
    """A word of each key."""
    return positions.to(tl.uint32) * COLUMN


@triton.jit
def kept(row_0, row_1, columns, threshold):
    """Which weights stay, from the words of rows and columns, broadcast against each other."""
    x = row_0 + columns
    x = (x ^ (x >> 16) ^ row_1) * MULTIPLIER_0
    x = (x ^ (x >> 15)) * MULTIPLIER_1
    return x >= threshold.to(tl.uint32)


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 16)) * MULTIPLIER_0
    x = (x ^ (x >> 15)) * MULTIPLIER_1
    return x ^ (x >> 15)
