"""New tokens into a cache, rotated on the way, and queries rotated beside them."""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl

from ring_attn_backends.triton.cached.entry import length_of, own_token, page_of, row_of

RUN_TIME = (
    "M", "A", "H", "G", "capacity", "page", "count", "block", "ranks", "rank", "angles",
)  # fmt: skip


@triton.jit(do_not_specialize=RUN_TIME)
def append(
    q_ptr, rotated_ptr, k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, cos_ptr, sin_ptr,
    lengths_ptr, table_ptr, rows_ptr,
    q_strides, rotated_strides, k_strides, v_strides, k_cache_strides, v_cache_strides,
    cos_strides, sin_strides, table_stride,
    M, A, H, G, capacity, page, count, block, ranks, rank, angles,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr, PAGED: tl.constexpr, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr,
    ONE_PLACE: tl.constexpr, DEALT: tl.constexpr,
) -> None:  # fmt: skip
    """Grid (tiles of BLOCK tokens, key heads and, if there is something to rotate, heads of q, B).

    ROTARY: the columns that are rotated, 0 for none. angles: rows of cos and sin; a place beyond
    them has the last one's.
    """
    head, entry = tl.program_id(1), tl.program_id(2)
    tokens = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    length = length_of(lengths_ptr, entry, capacity)
    batch = entry.to(tl.int64)
    if head < G:
        places = length + tokens
        at, is_own = own_token(places, block, ranks, rank, DEALT)
        inside = (tokens < A) & (places < capacity) & is_own
        if PAGED:
            row, within, exists = page_of(table_ptr, table_stride, entry, at, inside, page, count)
        else:
            row, exists = row_of(rows_ptr, entry, count)
            within = at
        inside &= exists
        k_at = k_ptr + batch * k_strides[0] + tokens.to(tl.int64) * k_strides[1]
        v_at = v_ptr + batch * v_strides[0] + tokens.to(tl.int64) * v_strides[1]
        k_to = k_cache_ptr + row * k_cache_strides[0] + within.to(tl.int64) * k_cache_strides[1]
        v_to = v_cache_ptr + row * v_cache_strides[0] + within.to(tl.int64) * v_cache_strides[1]
        _copy(v_at + head * v_strides[2], v_to + head * v_cache_strides[2], inside, E, BLOCK_E)
        if ROTARY == 0:
            _copy(k_at + head * k_strides[2], k_to + head * k_cache_strides[2], inside, D, BLOCK_D)
        else:
            _rotate(
                k_at + head * k_strides[2], k_to + head * k_cache_strides[2], inside, places,
                cos_ptr, sin_ptr, cos_strides, sin_strides, angles, D, BLOCK_D, ROTARY, INTERLEAVED,
            )  # fmt: skip
    elif ROTARY:
        head -= G
        inside = tokens < M
        places = length + (tokens * 0 if ONE_PLACE else tokens)
        q_at = q_ptr + batch * q_strides[0] + tokens.to(tl.int64) * q_strides[1]
        q_to = rotated_ptr + batch * rotated_strides[0]
        q_to += tokens.to(tl.int64) * rotated_strides[1]
        _rotate(
            q_at + head * q_strides[2], q_to + head * rotated_strides[2], inside, places,
            cos_ptr, sin_ptr, cos_strides, sin_strides, angles, D, BLOCK_D, ROTARY, INTERLEAVED,
        )  # fmt: skip


@triton.jit
def _copy(from_ptr, to_ptr, inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    columns = tl.arange(0, BLOCK_D)[None, :]
    mask = inside[:, None] & (columns < D)
    tl.store(to_ptr[:, None] + columns, tl.load(from_ptr[:, None] + columns, mask=mask), mask=mask)


@triton.jit
def _rotate(
    from_ptr, to_ptr, inside, places, cos_ptr, sin_ptr, cos_strides, sin_strides, angles,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Rows of D columns, the first ROTARY of them rotated in float32, to where they go."""
    columns = tl.arange(0, BLOCK_D)[None, :]
    turned = columns < ROTARY
    if INTERLEAVED:
        angle, is_second = columns // 2, columns % 2 == 1
        partner = tl.where(is_second, columns - 1, columns + 1)
    else:
        angle, is_second = columns % (ROTARY // 2), columns >= ROTARY // 2
        partner = tl.where(is_second, columns - ROTARY // 2, columns + ROTARY // 2)
    rows = tl.minimum(places, angles - 1).to(tl.int64)[:, None]
    mask = inside[:, None] & (columns < D)
    both = inside[:, None] & turned
    cos = tl.load(cos_ptr + rows * cos_strides[0] + angle, mask=both, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + rows * sin_strides[0] + angle, mask=both, other=0.0).to(tl.float32)
    x = tl.load(from_ptr[:, None] + columns, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(from_ptr[:, None] + partner, mask=both, other=0.0).to(tl.float32)
    x = x * cos + tl.where(is_second, y, -y) * sin
    tl.store(to_ptr[:, None] + columns, x.to(to_ptr.dtype.element_ty), mask=mask)
