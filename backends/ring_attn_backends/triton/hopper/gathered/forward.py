"""The forward kernel for keys of many ranks, in one launch that waits for them piece by piece.

As `forward`, but that a row tile walks a list of visits (`worklist`): the own keys first, then
each piece that comes from another rank as soon as it has landed. It is the producer's warp that
waits, so the consumers go on with the tiles that are in the pipe.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ring_attn_backends.triton.hopper.gathered.sending import send_visits
from ring_attn_backends.triton.hopper.gathered.visits import mask_of, tile_of
from ring_attn_backends.triton.hopper.gathered.waiting import given_up
from ring_attn_backends.triton.hopper.online import finite, masked, soften, step
from ring_attn_backends.triton.hopper.pipes import (
    barriers,
    bring,
    new_pipe,
    receive,
    release,
)
from ring_attn_backends.triton.hopper.programs import matrix_of, nth, tile_and_head, vector_of

RUN_TIME = ("tiles", "heads", "all_heads", "section", "group", "head_groups", "heads_each", "M")


@gluon.jit(do_not_specialize=RUN_TIME)
def gathered_forward(
    q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, out_ptr, lse_ptr,
    tiles_ptr, entries_ptr, words_ptr, out_strides, lse_strides,
    tiles, heads, all_heads, section, group, head_groups, heads_each, M, scale, cap,
    E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, CAPPED: gl.constexpr,
) -> None:  # fmt: skip
    """out and lse of 64 * GROUPS rows of one head; grid (row tiles * heads * batch).

    q (B, M, H, D) as in `forward`; keys (1, tokens, B * G, D) and values, own and landed, as packed
    documents, so that a tile ends in zeros where its visit does. words_ptr: int32 (1 + pieces,) as
    in `tensors.Gathering`, or None where all keys have landed.
    """
    tile, head = tile_and_head(tiles, all_heads, section)
    first_row, stop, entries, _ = tile_of(tiles_ptr, tile)
    zero = tile * 0
    row_side = (head // heads, zero, M)
    key_head = head // group  # of all batch entries
    head = head % heads
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    q_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_D], layout)
    q_full = barriers(1, 1)
    keys = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_D, GROUPS)
    values = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_E, GROUPS)
    out_ptr = matrix_of(row_side, head, out_ptr, out_strides)
    lse_ptr = vector_of(row_side, head, lse_ptr, lse_strides)
    given = (
        q_slots, q_full, keys, values, out_ptr, lse_ptr, out_strides[1],
        first_row, stop, entries_ptr, entries, words_ptr, scale, cap,
    )  # fmt: skip
    fetch = (
        q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, q_slots, q_full, keys, values,
        row_side, head, key_head, first_row, entries_ptr, entries, words_ptr,
        head_groups, heads_each,
    )  # fmt: skip
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, 0)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, 1)),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_N, STAGES, GROUPS)),
            ],
            [4, 1],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, 0)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, 1)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, 2)),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_N, STAGES, GROUPS)),
            ],
            [4, 4, 1],
            [160, 160, 24],
        )


@gluon.jit
def _produce(
    fetch, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr,
):  # fmt: skip
    """Brings the queries, then tile after tile of keys and values, each when it is there."""
    (
        q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, q_slots, q_full, keys, values,
        row_side, head, key_head, first_row, entries_ptr, entries, words_ptr,
        head_groups, heads_each,
    ) = fetch  # fmt: skip
    mbarrier.expect(q_full.index(0), GROUPS * 64 * BLOCK_D * 2)
    for part in gl.static_range(GROUPS):
        row = first_row + part * 64
        bring(q_desc, row_side, row, head, q_full.index(0), q_slots.index(part))
    send_visits(
        keys, values, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, key_head,
        entries_ptr, entries, words_ptr, head_groups, heads_each,
        BLOCK_D, BLOCK_E, BLOCK_N, STAGES,
    )  # fmt: skip


@gluon.jit
def _consume(
    given, E: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAPPED: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the rows."""
    (
        q_slots, q_full, keys, values, out_ptr, lse_ptr, out_stride,
        first_row, stop, entries_ptr, entries, words_ptr, scale, cap,
    ) = given  # fmt: skip
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_E, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = q_slots.dtype
    first_row += PART * 64
    rows = first_row + gl.arange(0, 64, s_rows)
    acc = gl.zeros([64, BLOCK_E], gl.float32, o_layout)
    peak = gl.full([64], float("-inf"), gl.float32, s_rows)
    total = gl.zeros([64], gl.float32, s_rows)
    mbarrier.wait(q_full.index(0), 0)
    q = q_slots.index(PART)
    begin, end = entries
    if begin < end:
        length, low, high, where = mask_of(entries_ptr, begin)
        k = receive(keys, 0, STAGES)
        zeros = gl.zeros([64, BLOCK_N], gl.float32, s_layout)
        s = warpgroup_mma(q, k.permute([1, 0]), zeros, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[s])
        release(keys, 0, STAGES)
        s = masked(s, rows, nth(0, where, BLOCK_N), length, low, high, scale, cap,
                   BLOCK_N, s_layout, CAPPED)  # fmt: skip
        p, fade, total, peak = soften(s, total, peak, scale, CAPPED)  # noqa: RUF059
        weights = gl.convert_layout(p.to(dtype), p_layout)
        number = first_row * 0  # of the tiles of earlier entries
        for entry in range(begin, end):
            length, low, high, where = mask_of(entries_ptr, entry)
            edges, count = where[3], where[2] + where[3]
            done = gl.where(entry == begin, 1, 0)  # the first of all tiles, above
            for i in range(done, edges):
                acc, weights, total, peak = step(
                    number + i, acc, weights, total, peak, q, keys, values, rows,
                    nth(i, where, BLOCK_N), length, low, high, scale, cap,
                    BLOCK_N, STAGES, CAPPED, s_layout, p_layout, o_rows, EDGE=True,
                )  # fmt: skip
            for i in range(gl.maximum(edges, done), count):
                acc, weights, total, peak = step(
                    number + i, acc, weights, total, peak, q, keys, values, rows, 0, length,
                    low, high, scale, cap, BLOCK_N, STAGES, CAPPED, s_layout, p_layout, o_rows,
                    EDGE=False,
                )  # fmt: skip
            number += count
        v = receive(values, number - 1, STAGES)
        acc = warpgroup_mma(weights, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
    inverse = 1.0 / gl.where(total == 0.0, 1.0, total)
    lse = (finite(peak) + gl.log2(total)) * 0.6931471805599453  # ln(2)
    if words_ptr is not None:
        lost = gl.where(given_up(words_ptr), float("nan"), 0.0)
        inverse += lost
        lse += lost
    out = acc * gl.convert_layout(inverse, o_rows)[:, None]
    out_rows = first_row + gl.arange(0, 64, o_rows)
    cols = gl.arange(0, BLOCK_E, gl.SliceLayout(0, o_layout))
    inside = (out_rows < stop)[:, None]
    if E < BLOCK_E:
        inside = inside & (cols < E)[None, :]
    pointers = out_ptr + out_rows.to(gl.int64)[:, None] * out_stride + cols[None, :]
    gl.store(pointers, out.to(out_ptr.dtype.element_ty), mask=inside)
    gl.store(lse_ptr + rows, lse, mask=rows < stop)
