"""A program reads its tile and its visits off the worklist, and waits for what is on its way."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.plain.gathered.worklist import FIELDS

ROW = tl.constexpr(FIELDS)

RUN_TIME = (
    *("heads", "streams", "group", "head_groups", "heads_each", "step"),
    *("word_0", "word_1", "threshold"),
)
"""What Triton must not specialise, as in `arguments`.

heads: whose tiles these are, in a batch entry; streams: in all of them. head_groups: groups of key
heads that arrive apart; heads_each: key heads in one, those of all batch entries counted through.
"""


@triton.jit
def row_of(table_ptr, number):
    """A tile, or a visit: its six integers, see `worklist`."""
    at = table_ptr + number * ROW
    return (
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4),
        tl.load(at + 5),
    )  # fmt: skip


@triton.jit
def arrival(words_ptr, piece, head_group, head_groups):
    """Waits for a piece's group of heads; returns 0 if it never comes, and else its word.

    All that was written before the word is then there to be read: one thread reads the word with
    acquiring order, and the barrier that hands it to the others hands on what it orders.
    """
    awaited_ptr = words_ptr + 1 + (piece - 1) * head_groups + head_group
    word = tl.atomic_add(awaited_ptr, 0, sem="acquire", scope="sys")
    lost = word * 0
    while (word | lost) == 0:
        lost = tl.atomic_add(words_ptr, 0, sem="acquire", scope="sys")
        word = tl.atomic_add(awaited_ptr, 0, sem="acquire", scope="sys")
    return word


@triton.jit
def unless_lost(value, words_ptr, WAITS: tl.constexpr):
    """The value, but NaN where something never comes: what was computed is then of no meaning."""
    if WAITS:
        lost = tl.atomic_add(words_ptr, 0, sem="acquire", scope="sys") != 0
        value = tl.where(lost, float("nan"), value)
    return value


@triton.jit
def matrix_of(own_ptr, own_strides, landed_ptr, landed_strides, piece, batch, head):
    """A head's keys in a piece's area, and the area's token stride.

    Chosen at each visit, for pointers to both areas would fill registers in between.
    """
    landed = piece != 0
    token_stride = tl.where(landed, landed_strides[1], own_strides[1])
    base = tl.where(landed, landed_ptr, own_ptr)
    base += batch * tl.where(landed, landed_strides[0], own_strides[0])
    base += head * tl.where(landed, landed_strides[2], own_strides[2])
    return base, token_stride
