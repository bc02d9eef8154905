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
def place_of(tokens, block, ranks, rank, DEALT: tl.constexpr):
    """Where this rank's tokens stand: `Dealt`."""
    places = tokens
    if DEALT:
        places = (tokens // block * ranks + rank) * block + tokens % block
    return places


@triton.jit
def own_count(places, block, ranks, rank, DEALT: tl.constexpr):
    """How many of the first places are this rank's; places are 0 or more."""
    count = places
    if DEALT:
        rest = places % (block * ranks) - rank * block
        count = places // (block * ranks) * block + tl.minimum(tl.maximum(rest, 0), block)
    return count


@triton.jit
def own_token(places, block, ranks, rank, DEALT: tl.constexpr):
    """Which of this rank's tokens stand at places, and whether they are this rank's."""
    tokens, is_own = places, places >= 0
    if DEALT:
        tokens = places // (block * ranks) * block + places % block
        is_own = places // block % ranks == rank
    return tokens, is_own


@triton.jit
def page_of(table_ptr, stride, entry, tokens, inside, page, count):
    """The pages of tokens, in 64 bits, the tokens' places in them, and whether those exist.

    inside: which tokens are asked for; what is outside is not looked up.
    """
    number = tl.load(table_ptr + entry.to(tl.int64) * stride + tokens // page, inside, other=-1)
    exists = (number >= 0) & (number < count)
    return tl.where(exists, number, 0).to(tl.int64), tokens % page, exists
