"""The producers' ways through a worklist: tiles of own keys, and of those that are waited for."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cutlass import Int32, cute

from ring_attn_backends.cute.gathered.visits import side_of
from ring_attn_backends.cute.gathered.waiting import await_piece
from ring_attn_backends.cute.operands import FAR
from ring_attn_backends.cute.pipes import load_of, order
from ring_attn_backends.cute.row_tiles import add_rows, bring_rows, tell_rows


@cute.jit
def send_visits(own, landed, pipes, tables, span, heads, bring: cutlass.Constexpr):
    """Brings every tile of the entries `span`, each when it is there.

    own, landed: atoms and matrices of keys and of values, as `loads_of` takes them. heads: the key
    head, its group of those that arrive together, and how many groups there are. bring: of `pipes`,
    in which order consumers ask for a visit's tiles.
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
            bring(loads_of(own, head, side, pipes), pipes, where, before)
        else:
            bring(loads_of(landed, head, side, pipes), pipes, where, before)
        before += where[2] + where[3]


@cute.jit
def send_keys(own, landed, pipes, words, piece, side, heads):
    """Brings a program's own keys and values, when they are there; the rest as in `send_visits`.

    side: the first of them, and how many there are, none where a tile is empty.
    """
    head, head_group, head_groups = heads
    if piece == 0:
        for load, pipe in zip(loads_of(own, head, side, pipes), pipes, strict=True):
            order(load, 0, pipe, 0)
    else:
        await_piece(words, piece, head_group, head_groups)
        for load, pipe in zip(loads_of(landed, head, side, pipes), pipes, strict=True):
            order(load, 0, pipe, 0)


@cute.jit
def send_rows(matrices, pipes, entries, span, heads):
    """Brings the row tiles of all entries; nobody waits for rows.

    matrices: of q and dout an atom and (M, columns, heads). heads: as `bring_rows` takes them.
    """
    before = Int32(0)
    for entry in cutlass.range(span[0], span[1], unroll=1):
        _, (first, _), where = side_of(entries, entry)
        loads = [
            load_of(atom, cute.domain_offset((first, 0, 0), matrix), pipe)
            for (atom, matrix), pipe in zip(matrices, pipes, strict=True)
        ]
        bring_rows(loads, pipes, heads, where, before)
        before += heads[1] * (where[2] + where[3])


@cute.jit
def send_vectors(
    matrices, vectors, entries, span, heads, scale, build: cutlass.Constexpr
):  # fmt: skip
    """Tells what lse and delta make of the same tiles, as `tell_rows` does."""
    before = Int32(0)
    for entry in cutlass.range(span[0], span[1], unroll=1):
        _, side, where = side_of(entries, entry)
        tell_rows(matrices, vectors, side, heads, where, before, scale, build)
        before += heads[1] * (where[2] + where[3])


@cute.jit
def take_rows(matrix, pipe, entries, span, heads):
    """Has TMA add what consumers hand on of the same tiles; the rest as in `send_rows`."""
    atom, dq = matrix
    before = Int32(0)
    for entry in cutlass.range(span[0], span[1], unroll=1):
        _, (first, _), where = side_of(entries, entry)
        load = load_of(atom, cute.domain_offset((first, 0, 0), dq), pipe)
        add_rows(load, pipe, heads, where, before)
        before += heads[1] * (where[2] + where[3])


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
