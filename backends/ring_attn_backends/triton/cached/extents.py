"""Which keys each batch entry has in a cache, as the Hopper forward reads it."""
# ruff: noqa: ANN001 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.cached.entry import length_of, row_of

NUMBERS = 4
"""Of a share of an entry."""
RUN_TIME = ("A", "capacity", "count", "entries", "splits")


@triton.jit(do_not_specialize=RUN_TIME)
def extents(
    into_ptr, lengths_ptr, rows_ptr, skipped_ptr, A, capacity, count, entries, splits,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """int32 (splits * B, 4): of an entry's share, one behind another by whole BLOCKs, the first key
    that is there, counted through all rows; how many keys there are; how many there would be if the
    cache had room for all that is appended, behind which the last query stands; and the entry.

    Grid (splits * B,). A: new tokens. count: rows of the cache. entries: B."""
    entry, share = tl.program_id(0) % entries, tl.program_id(0) // entries
    row, exists = row_of(rows_ptr, entry, count)
    end = length_of(lengths_ptr, entry, capacity) + A
    stop = tl.where(exists, tl.minimum(end, capacity), 0)
    start = stop * 0
    if skipped_ptr is not None:
        start = tl.minimum(tl.maximum(tl.load(skipped_ptr + entry), 0), stop)
    each = tl.cdiv(tl.cdiv(stop - start, splits), BLOCK) * BLOCK
    first = start + tl.minimum(share * each, stop - start)
    into_ptr += 4 * tl.program_id(0)
    tl.store(into_ptr, (row * capacity + first).to(tl.int32))
    tl.store(into_ptr + 1, tl.minimum(first + each, stop) - first)
    tl.store(into_ptr + 2, end - first)
    tl.store(into_ptr + 3, entry)
