"""What a program knows of its document: where it lies, what sees what, and how its tiles come."""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

from typing import Any, NamedTuple

import cutlass
from cutlass import Int32, cute
from cutlass.cute import arch

from ring_attn_backends.cute.operands import FAR
from ring_attn_backends.cute.pipes import load_of
from ring_attn_backends.cute.programs import Visit, seen


class Place(NamedTuple):
    """A program's tile, -1 if it has none; its document, and of that `places.Sides`."""

    tile: Any
    document: Any
    first_row: Any
    rows: Any
    first_key: Any
    keys: Any


def new_place(memory):
    """Where the warp that finds it tells the others, in the program's shared memory."""
    return memory.allocate_tensor(Int32, cute.make_layout(len(Place._fields)), 16)


def place_in(told):
    """What was told, behind a barrier."""
    return Place(*(arch.make_warp_uniform(told[i]) for i in range(len(Place._fields))))


def rows_visit(place, band, config):
    """The first row of the program's tile in its document, and the keys that the rows see."""
    low, high = _of_document(place, band)
    first = place.tile * config.own
    last = cutlass.min(first + config.own, place.rows) - 1
    where = seen(first, last, low, high, place.keys, config.block, cutlass.min, cutlass.max)
    return first, Visit(place.keys, low, high, where)


def keys_visit(place, band, config):
    """The first key of the program's tile in its document, and the rows that see the keys."""
    low, high = _of_document(place, band)
    first = place.tile * config.own
    last = cutlass.min(first + config.own, place.keys) - 1
    where = seen(first, last, -high, -low, place.rows, config.block, cutlass.min, cutlass.max)
    return first, Visit(place.rows, low, high, where)


def _of_document(place, band):
    """The band by index: the last row and the last key of a document are at one place."""
    low, high = band
    behind = place.keys - place.rows
    return low - behind, high - behind


def part(matrix, first):
    """A document's own lines of a matrix, or of a vector: from its first token on."""
    return cute.domain_offset((first, *(0 for _ in range(cute.rank(matrix) - 1))), matrix)


def load_from(atom, matrix, side, pipe):
    """What `order` takes, or of all heads `load_at`: tiles of a document; behind its end come 0.

    matrix: of `operands.ragged` as TMA counts, of one head or of all. side: the document's first
    token, and how many.
    """
    first, length = side
    more = (None,) * (cute.rank(matrix) - 4)
    until_stop = matrix[(None, None, *more, first + length, FAR)]
    offset = (FAR - length, 0, *(0 for _ in more))
    return load_of(atom, cute.domain_offset(offset, until_stop), pipe)
