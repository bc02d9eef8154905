"""Where a batch entry's tokens lie in a cache, and how many it has."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit
def length_of(lengths_ptr, entry, capacity):
    """Tokens before the append: data, which counts as 0 to the capacity."""
    length = capacity
    if lengths_ptr is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths_ptr + entry), 0), capacity)
    return length


@triton.jit
def row_of(rows_ptr, entry, count):
    """The row of the cache, in 64 bits, and whether there is one of that number."""
    row = entry
    if rows_ptr is not None:
        row = tl.load(rows_ptr + entry)
    exists = (row >= 0) & (row < count)
    return tl.where(exists, row, 0).to(tl.int64), exists


@triton.jit
def page_of(table_ptr, stride, entry, tokens, inside, page, count):
    """The pages of tokens, in 64 bits, the tokens' places in them, and whether those exist.

    inside: which tokens are asked for; what is outside is not looked up.
    """
    number = tl.load(table_ptr + entry.to(tl.int64) * stride + tokens // page, inside, other=-1)
    exists = (number >= 0) & (number < count)
    return tl.where(exists, number, 0).to(tl.int64), tokens % page, exists
