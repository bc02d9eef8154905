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
