"""Tokens in global memory, their tiles in shared memory, and products of such tiles."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

from cutlass import Float32, Int64, cute
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup
from cutlass.utils import hopper_helpers

K_MAJOR, MN_MAJOR = OperandMajorMode.K, OperandMajorMode.MN
SMEM, RMEM = warpgroup.OperandSource.SMEM, warpgroup.OperandSource.RMEM
FAR = 2**30
ANY = 2**31 - 2**16
"""The length of a dim that is never left."""


def tokens(pointer, shape, strides, divisor):
    """(tokens, columns, heads, batch), of the strides of (batch, token, head)."""
    batch, token, head = (cute.assume(x, divby=divisor) for x in strides)
    return cute.make_tensor(pointer, cute.make_layout(shape, stride=(token, 1, head, batch)))


def ragged(pointer, shape, strides):
    """(tokens, columns, heads, stop, far), in which tokens from any stop on are outside, for TMA.

    shape: columns and heads, of one batch entry. Token i of n that stop before token e is at the
    place (2^30 - n + i, column, head, e, 2^30): from token n on the first number is outside. The
    address comes out as that of token e - n + i, modulo the 2^64 that 2^30 steps of the last stride
    add up to (as `triton/hopper/descriptors.py` does).
    """
    columns, heads = shape
    _, token, head = (cute.assume(x, divby=8) for x in strides)
    far = cute.assume(Int64(2**34) - token, divby=8)
    layout = cute.make_layout(
        (FAR, columns, heads, ANY, ANY), stride=(token, 1, head, token, far)
    )  # fmt: skip
    return cute.make_tensor(pointer, layout)


def table(pointer):
    """Integers in a row, however many."""
    return cute.make_tensor(pointer, cute.make_layout(ANY))


def numbers(pointer, shape, strides):
    """(tokens, heads, batch), a number each, of the strides of (batch, head)."""
    batch, head = strides
    return cute.make_tensor(pointer, cute.make_layout(shape, stride=(1, head, batch)))


def swizzled(dtype, count, columns, stages, part=None):
    """How TMA lays tiles out, and the tensor cores read them without bank conflicts.

    part: so many columns, or a multiple of them, a product reads along, 32 or 64 of 16 bits, and
    TMA brings at once; by itself as many as divide the columns.
    """
    part = part or part_of(columns)
    kinds = warpgroup.SmemLayoutAtomKind
    atom = warpgroup.make_smem_layout_atom(kinds.K_SW128 if part == 64 else kinds.K_SW64, dtype)
    return cute.tile_to_shape(atom, (count, columns, stages), (0, 1, 2))


def part_of(columns):
    """Of so many columns of 16 bits, how many a swizzle takes: 96 are three times 32."""
    return 64 if columns % 64 == 0 else 32


def by_tma(matrix, layout, count):
    """The atom that copies tiles of so many tokens, and what it counts tiles in."""
    copies = cpasync.CopyBulkTensorTileG2SOp()
    return cpasync.make_tiled_tma_atom(copies, matrix, layout, (count, matrix.shape[1]))


def adding_by_tma(matrix, layout, count):
    """The same of an atom that adds tiles to the matrix: tokens that are not there are left out."""
    adds = cpasync.CopyReduceBulkTensorTileS2GOp()
    return cpasync.make_tiled_tma_atom(adds, matrix, layout, (count, matrix.shape[1]))


def product(dtype, groups, columns, b_major, a_source):
    """64 rows of each warpgroup by so many columns, added up in float32."""
    return hopper_helpers.make_trivial_tiled_mma(
        dtype, dtype, K_MAJOR, b_major, Float32, (groups, 1, 1), (64, columns), a_source
    )


def split_product(dtype, split, columns):
    """64 rows by so many columns, (rows, columns) of which warpgroups share; a^T and b^T lie there.

    split: into how many parts rows and columns are.
    """
    by_rows, by_columns = split
    return hopper_helpers.make_trivial_tiled_mma(
        dtype, dtype, MN_MAJOR, MN_MAJOR, Float32, (by_rows, by_columns, 1),
        (64, columns // by_columns), SMEM,
    )  # fmt: skip


def multiply(mma, into, a, b, *, fresh):
    """Starts into = a b, or into += a b, on the tensor cores: one group to wait for."""
    atom = cute.make_mma_atom(mma.op)  # whose switch nobody else turns
    warpgroup.fence()
    for i in range(cute.size(a, mode=[2])):
        atom.set(warpgroup.Field.ACCUMULATE, not fresh or i > 0)
        cute.gemm(atom, into, a[None, None, i], b[None, None, i], into)
    warpgroup.commit_group()


def transposed(slots):
    """(columns, tokens, stages) of (tokens, columns, stages)."""
    return cute.make_tensor(slots.iterator, cute.select(slots.layout, [1, 0, 2]))
