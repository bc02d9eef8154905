"""Waiting inside a kernel for keys that copies bring: `tensors.Gathering.arrived` has the words."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

from cutlass import Int32, Int64, cute
from cutlass._mlir.dialects import llvm
from cutlass.cute import arch

from ring_attn_backends.cute import lanes


def word_of(words, number):
    """What the word is now: an acquiring load, because it is another engine that writes it."""
    address = (words.iterator + number).toint()
    word = llvm.inline_asm(
        Int32.mlir_type, [Int64(address).ir_value()], "ld.acquire.sys.global.b32 $0, [$1];",
        "=r,l,~{memory}", has_side_effects=True,
    )  # fmt: skip
    return Int32(word)


@cute.jit
def await_piece(words, piece, head_group, head_groups):
    """Returns when the piece's heads have landed, or nothing more will; TMA may read them then.

    Every thread polls for itself: they all are ordered behind the word, also the one that TMA
    takes its orders from. What TMA reads is ordered by a fence of its proxy alone.
    """
    awaited = 1 + (piece - 1) * head_groups + head_group
    ready = word_of(words, awaited) | word_of(words, 0)
    while ready == 0:
        ready = word_of(words, awaited) | word_of(words, 0)
    arch.fence_proxy("async.global")


def lost(words):
    """NaN where a program must not be believed: it may have read what has not landed; else 0."""
    return lanes.where(word_of(words, 0) != 0, float("nan"), 0.0)
