"""A thread's registers, and where what they hold lies in global memory."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

from cutlass import Int32, cute

from ring_attn_backends.cute import lanes


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
