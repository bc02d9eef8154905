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
def page_of(table_ptr, stride, entry, tokens, asked, page, count):
    """The pages of tokens, in 64 bits, the tokens' places in them, and whether those exist."""
    numbers = tl.load(table_ptr + entry.to(tl.int64) * stride + tokens // page, asked, other=-1)
    held, exists = existing(numbers, count)
    return held, tokens % page, exists


@triton.jit
def pages_of_tile(
    table_ptr, stride, entry, first, stop, page, page_bits,
    BLOCK_N: tl.constexpr, WHOLE_PAGES: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """The numbers of a key tile's pages, -1 at or beyond `stop`: each token's, or if WHOLE_PAGES
    the one that they share."""
    tokens = first
    if not WHOLE_PAGES:
        tokens += tl.arange(0, BLOCK_N)
    # a division of each token takes a thread longer than all else that it does for it
    number = tokens >> page_bits if POWER else tokens // page
    at = table_ptr + entry.to(tl.int64) * stride + number
    return tl.load(at, tokens < stop, other=-1)


@triton.jit
def place_in_page(
    first, page, PAGED: tl.constexpr,
    BLOCK_N: tl.constexpr, WHOLE_PAGES: tl.constexpr, POWER: tl.constexpr,
):  # fmt: skip
    """Where a key tile's first token lies in its page, or row; unless WHOLE_PAGES, each token."""
    tokens = first
    if PAGED and not WHOLE_PAGES:
        tokens += tl.arange(0, BLOCK_N)
    if PAGED:
        tokens = tokens & (page - 1) if POWER else tokens % page
    return tokens


@triton.jit
def existing(numbers, count):
    """Numbers of pages in 64 bits, 0 for those that do not exist, and whether they do."""
    exists = (numbers >= 0) & (numbers < count)
    return tl.where(exists, numbers, 0).to(tl.int64), exists
