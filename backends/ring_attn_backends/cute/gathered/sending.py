"""The producer's way through a worklist: tiles of own keys, and of those that it waits for."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cutlass import Int32, cute

from ring_attn_backends.cute.gathered.visits import side_of
from ring_attn_backends.cute.gathered.waiting import await_piece
from ring_attn_backends.cute.operands import FAR
from ring_attn_backends.cute.pipes import bring_pairs, load_of


@cute.jit
def send_visits(own, landed, pipes, tables, span, heads):
    """Brings every tile of the entries `span`, each when it is there.

    own, landed: atoms and matrices of keys and of values, as `load_of_visit` takes them. heads: the
    key head, its group of those that arrive together, and how many groups there are.
    """
    entries, words = tables
    head, head_group, head_groups = heads
    known, before = Int32(0), Int32(0)  # the own piece is there
    for entry in cutlass.range(span[0], span[1], unroll=1):
        piece, side, where = side_of(entries, entry)
        if piece != known:  # entries are in the order of arrival
            await_piece(words, piece, head_group, head_groups)
        known = piece
        if piece == 0:
            bring_pairs(loads_of(own, head, side, pipes), pipes, where, before)
        else:
            bring_pairs(loads_of(landed, head, side, pipes), pipes, where, before)
        before += where[2] + where[3]


def loads_of(matrices, head, side, pipes):
    """How tiles of a side's keys and values come; what is beyond the side arrives as 0.

    matrices: of each an atom and `operands.ragged` as it counts.
    """
    first, length = side
    loads = []
    for (atom, matrix), pipe in zip(matrices, pipes, strict=True):
        until_stop = matrix[None, None, head, first + length, FAR]
        loads.append(load_of(atom, cute.domain_offset((FAR - length, 0), until_stop), pipe))
    return tuple(loads)
