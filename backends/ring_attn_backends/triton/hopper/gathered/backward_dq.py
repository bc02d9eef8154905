"""The backward kernel for dq from the keys of many ranks: as `gathered_forward` walks them."""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from ring_attn_backends.triton.hopper.gathered.forward import RUN_TIME
from ring_attn_backends.triton.hopper.gathered.sending import send_visits
from ring_attn_backends.triton.hopper.gathered.visits import mask_of, tile_of
from ring_attn_backends.triton.hopper.gathered.waiting import given_up
from ring_attn_backends.triton.hopper.key_gradients import put
from ring_attn_backends.triton.hopper.pipes import barriers, bring, new_pipe
from ring_attn_backends.triton.hopper.programs import matrix_of, nth, tile_and_head, vector_of
from ring_attn_backends.triton.hopper.row_gradients import step


@gluon.jit(do_not_specialize=RUN_TIME)
def gathered_dq(
    dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc,
    lse_ptr, delta_ptr, dq_ptr, tiles_ptr, entries_ptr, words_ptr,
    lse_strides, delta_strides, dq_strides,
    tiles, heads, all_heads, section, group, head_groups, heads_each, M, scale, cap, gradient_scale,
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, CAPPED: gl.constexpr,
) -> None:  # fmt: skip
    """dq of 64 * GROUPS rows of one head; grid (row tiles * heads * batch).

    All as in `backward_dq` and `gathered_forward`.
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
    dout_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_E], layout)
    rows_full = barriers(1, 1)
    keys = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_D, GROUPS)
    values = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_E, GROUPS)
    lse_ptr = vector_of(row_side, head, lse_ptr, lse_strides)
    delta_ptr = vector_of(row_side, head, delta_ptr, delta_strides)
    dq_ptr = matrix_of(row_side, head, dq_ptr, dq_strides)
    given = (
        q_slots, dout_slots, rows_full, keys, values, lse_ptr, delta_ptr, dq_ptr, dq_strides[1],
        first_row, stop, entries_ptr, entries, words_ptr, scale, cap, gradient_scale,
    )  # fmt: skip
    fetch = (
        dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc,
        q_slots, dout_slots, rows_full, keys, values, row_side, head, key_head, first_row,
        entries_ptr, entries, words_ptr, head_groups, heads_each,
    )  # fmt: skip
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, 0)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, 1)),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_N, STAGES, GROUPS)),
            ],
            [4, 1],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, 0)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, 1)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, 2)),
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
    """Brings the rows, then tile after tile of keys and values, each when it is there."""
    (
        dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc,
        q_slots, dout_slots, rows_full, keys, values, row_side, head, key_head, first_row,
        entries_ptr, entries, words_ptr, head_groups, heads_each,
    ) = fetch  # fmt: skip
    full = rows_full.index(0)
    mbarrier.expect(full, GROUPS * 64 * (BLOCK_D + BLOCK_E) * 2)
    for part in gl.static_range(GROUPS):
        row = first_row + part * 64
        bring(q_desc, row_side, row, head, full, q_slots.index(part))
        bring(dout_desc, row_side, row, head, full, dout_slots.index(part))
    send_visits(
        keys, values, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, key_head,
        entries_ptr, entries, words_ptr, head_groups, heads_each,
        BLOCK_D, BLOCK_E, BLOCK_N, STAGES,
    )  # fmt: skip


@gluon.jit
def _consume(
    given, D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAPPED: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the rows."""
    (
        q_slots, dout_slots, rows_full, keys, values, lse_ptr, delta_ptr, dq_ptr, dq_stride,
        first_row, stop, entries_ptr, entries, words_ptr, scale, cap, gradient_scale,
    ) = given  # fmt: skip
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    first_row += PART * 64
    rows = first_row + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    lse = gl.load(lse_ptr + rows, mask=rows < stop, other=0.0) * 1.4426950408889634
    lse = gl.where(lse == float("-inf"), 0.0, lse)  # `softmax.known`
    delta = gl.load(delta_ptr + rows, mask=rows < stop, other=0.0)
    dq = gl.zeros([64, BLOCK_D], gl.float32, o_layout)
    mbarrier.wait(rows_full.index(0), 0)
    q = q_slots.index(PART)
    dout = dout_slots.index(PART)
    number = first_row * 0  # of the tiles of earlier entries
    for entry in range(entries[0], entries[1]):
        length, low, high, where = mask_of(entries_ptr, entry)
        edges, count = where[3], where[2] + where[3]
        for i in range(count):
            dq = step(
                number + i, dq, q, dout, keys, values, lse, delta, rows, nth(i, where, BLOCK_N),
                i < edges, length, low, high, scale, cap, BLOCK_N, STAGES, CAPPED,
                s_layout, p_layout,
            )  # fmt: skip
        number += count
    dq *= gradient_scale
    if words_ptr is not None:
        dq += gl.where(given_up(words_ptr), float("nan"), 0.0)
    put(dq_ptr, dq_stride, dq, first_row, stop, D, BLOCK_D, o_layout, False)
