"""Which keys each batch entry has in a cache, as the Hopper forward reads it."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.cached.entry import length_of, row_of

NUMBERS = 3
"""Of an entry."""
RUN_TIME = ("A", "capacity", "count")


@triton.jit(do_not_specialize=RUN_TIME)
def extents(into_ptr, lengths_ptr, rows_ptr, skipped_ptr, A, capacity, count) -> None:
    """int32 (B, 3): of the entry's row the first key that is there, counted through all rows; how
    many keys there are; and how many there would be if the cache had room for all that is appended,
    behind which the last query stands. Grid (B,). A: new tokens. count: rows of the cache."""
    entry = tl.program_id(0)
    row, exists = row_of(rows_ptr, entry, count)
    end = length_of(lengths_ptr, entry, capacity) + A
    stop = tl.where(exists, tl.minimum(end, capacity), 0)
    start = stop * 0
    if skipped_ptr is not None:
        start = tl.minimum(tl.maximum(tl.load(skipped_ptr + entry), 0), stop)
    into_ptr += 3 * entry
    tl.store(into_ptr, (row * capacity + start).to(tl.int32))
    tl.store(into_ptr + 1, stop - start)
    tl.store(into_ptr + 2, end - start)
