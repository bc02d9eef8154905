"""A thread's registers, and where what they hold lies in global memory."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cutlass import Float32, Int32, cute

from ring_attn_backends.cute import lanes
from ring_attn_backends.cute.programs import column_of


def flat(tensor):
    """A thread's registers in their order."""
    return cute.make_tensor(tensor.iterator, cute.make_layout(cute.size(tensor)))


def read(tensor):
    """What is in them: one number each."""
    line = flat(tensor)
    return [line[i] for i in range(cute.size(tensor))]


def write(tensor, values):
    """Into them."""
    line = flat(tensor)
    for i, value in enumerate(values):
        line[i] = value


def rounded(tensor, values):
    """Into registers of 16 bits, two numbers to each instruction.

    Products leave a thread's numbers in the order in which the next product takes them.
    """
    pairs = flat(cute.recast_tensor(tensor, Int32))
    for i in range(0, len(values), 2):
        pairs[i // 2] = lanes.pack(values[i], values[i + 1], tensor.element_type)


def pair_at(matrix, row, column):
    """Two neighbours in a row of a matrix in global memory; column is even."""
    offset = cute.assume(row * matrix.stride[0] + column, divby=2)
    return cute.make_tensor(matrix.iterator + offset, cute.make_layout(2))


def pair_of(numbers, place):
    """Two neighbours of a vector; place is even."""
    return cute.make_tensor(numbers.iterator + cute.assume(place, divby=2), cute.make_layout(2))


def lay(tensor, slots, slot, row, column, lane):
    """Lays a warpgroup's tile on a slot that `operands.swizzled` laid out.

    row: of the slot, the warp's first. column: that the tile begins at, a multiple of 128 bytes, of
    which in row r the k-th 16 lie at k ^ r % 8. That is lane // 4 for both of a thread's rows: the
    compiler, which does not know it, would have an address for each pair.
    """
    numbers, bytes_each = flat(tensor), tensor.element_type.width // 8
    span, turned = 128 // bytes_each, 16 // bytes_each
    first = cute.crd2idx((row + lane // 4, column, slot), slots.layout)
    place = cute.recast_ptr(slots.iterator) + first
    within = column_of(lane, 0) ^ turned * (lane // 4)
    for i in range(0, cute.size(numbers), 2):
        whole, rest = divmod(column_of(0, i), span)
        offset = cute.crd2idx((8 * (i // 2 % 2), span * whole, 0), slots.layout)
        pair = cute.make_tensor(numbers.iterator + i, cute.make_layout(2))
        pair_of_slot(place, offset, rest ^ within).store(pair.load())


def pair_of_slot(place, offset, column):
    """Two neighbours in shared memory; offset and column are even."""
    return cute.make_tensor(place + cute.assume(offset + column, divby=2), cute.make_layout(2))


@cute.jit
def deliver(tensor, matrix, rows, count, lane, factor, add: cutlass.Constexpr):
    """Writes a warpgroup's tile to rows of a matrix that there are; add: to what is there."""
    numbers = flat(tensor)
    for half in cutlass.range_constexpr(2):
        row = rows[half]
        if row < count:
            for i in cutlass.range_constexpr(2 * half, cute.size(numbers), 4):
                place = pair_at(matrix, row, column_of(lane, i))
                pair = cute.make_rmem_tensor(2, Float32)
                pair[0] = numbers[i] * factor
                pair[1] = numbers[i + 1] * factor
                if cutlass.const_expr(add):
                    there = place.load()
                    pair[0] = pair[0] + there[0]
                    pair[1] = pair[1] + there[1]
                place.store(pair.load().to(matrix.element_type))
