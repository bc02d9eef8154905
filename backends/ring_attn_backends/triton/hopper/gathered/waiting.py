"""Waiting inside a kernel for keys that copies bring: `tensors.Gathering.arrived` has the words."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def word_of(words_ptr):
    """What the word is now: an acquiring load, because it is another engine that writes it."""
    return gl.inline_asm_elementwise(
        "ld.acquire.sys.global.b32 $0, [$1];", "=r,l,~{memory}", [words_ptr],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def await_piece(words_ptr, piece, head_group, head_groups):
    """Returns when the piece's heads have landed, or nothing more will; TMA may read them then.

    Every thread polls for itself: they all are ordered behind the word, also the one that TMA
    takes its orders from. What TMA reads is ordered by a fence of its proxy alone.
    """
    awaited_ptr = words_ptr + 1 + (piece - 1) * head_groups + head_group
    ready = word_of(awaited_ptr) | word_of(words_ptr)
    while ready == 0:
        ready = word_of(awaited_ptr) | word_of(words_ptr)
    gl.inline_asm_elementwise(
        "{ fence.proxy.async.global; mov.b32 $0, $1; }", "=r,r,~{memory}", [ready],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def given_up(words_ptr):
    """Whether a program must not be believed: it may have read what has not landed."""
    return word_of(words_ptr) != 0
