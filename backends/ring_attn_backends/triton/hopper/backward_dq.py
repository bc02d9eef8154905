"""The backward kernel for dq on Hopper: row tiles stay, key tiles pass (FlashAttention-2).

One warp brings tiles of keys and values by TMA; two or three warpgroups have 64 rows each.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from ring_attn_backends.triton.hopper.key_gradients import put
from ring_attn_backends.triton.hopper.pipes import barriers, bring, new_pipe, send
from ring_attn_backends.triton.hopper.programs import (
    RUN_TIME,
    matrix_of,
    nth,
    seen,
    sides,
    tile_and_head,
    vector_of,
)
from ring_attn_backends.triton.hopper.row_gradients import step


@gluon.jit(do_not_specialize=RUN_TIME)
def backward_dq(
    dout_desc, q_desc, k_desc, v_desc, lse_ptr, delta_ptr, dq_ptr, cu_rows_ptr, cu_keys_ptr,
    lse_strides, delta_strides, dq_strides,
    tiles, heads, all_heads, section, group, M, N, low, high, scale, cap, gradient_scale,
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, CAPPED: gl.constexpr, ADD: gl.constexpr,
) -> None:  # fmt: skip
    """dq of 64 * GROUPS rows of one head; grid (row tiles * heads * batch or documents).

    dout (B, M, H, E), q (B, M, H, D), k (B, N, G, D), v (B, N, G, E) and documents as in `forward`.
    ADD: to what dq holds.
    """
    tile, head = tile_and_head(tiles, all_heads, section)
    row_side, key_side, low, high = sides(
        head // heads, cu_rows_ptr, cu_keys_ptr, M, N, low, high
    )  # fmt: skip
    M, N = row_side[2], key_side[2]
    head = head % heads
    first_row = (gl.cdiv(M, 64 * GROUPS) - 1 - tile) * 64 * GROUPS
    if cu_rows_ptr is not None:  # noqa: SIM102 - Triton would compile what stands behind an `and`
        if first_row < 0:  # a shorter document than the longest
            return
    last_row = gl.minimum(first_row + 64 * GROUPS, M) - 1
    where = seen(first_row, last_row, -high, -low, N, BLOCK_N)
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
        first_row, where, M, N, low, high, scale, cap, gradient_scale,
    )  # fmt: skip
    fetch = (
        dout_desc, q_desc, k_desc, v_desc, q_slots, dout_slots, rows_full, keys, values,
        row_side, key_side, head, head // group, first_row, where,
    )  # fmt: skip
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, ADD, 0)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, ADD, 1)),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_N, STAGES, GROUPS)),
            ],
            [4, 1],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, ADD, 0)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, ADD, 1)),
                (_consume, (given, D, BLOCK_D, BLOCK_N, STAGES, CAPPED, ADD, 2)),
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
    """Brings the rows, then tile after tile of keys and values."""
    (
        dout_desc, q_desc, k_desc, v_desc, q_slots, dout_slots, rows_full, keys, values,
        row_side, key_side, head, key_head, first_row, where,
    ) = fetch  # fmt: skip
    full = rows_full.index(0)
    mbarrier.expect(full, GROUPS * 64 * (BLOCK_D + BLOCK_E) * 2)
    for part in gl.static_range(GROUPS):
        row = first_row + part * 64
        bring(q_desc, row_side, row, head, full, q_slots.index(part))
        bring(dout_desc, row_side, row, head, full, dout_slots.index(part))
    for i in range(where[2] + where[3]):
        first_key = nth(i, where, BLOCK_N)
        send(keys, i, k_desc, key_side, first_key, key_head, STAGES, BLOCK_N, BLOCK_D)
        send(values, i, v_desc, key_side, first_key, key_head, STAGES, BLOCK_N, BLOCK_E)


@gluon.jit
def _consume(
    given, D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAPPED: gl.constexpr, ADD: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the rows."""
    (
        q_slots, dout_slots, rows_full, keys, values, lse_ptr, delta_ptr, dq_ptr, dq_stride,
        first_row, where, M, N, low, high, scale, cap, gradient_scale,
    ) = given  # fmt: skip
    whole, edges = where[2], where[3]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    first_row += PART * 64
    score_rows = first_row + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    lse = gl.load(lse_ptr + score_rows, mask=score_rows < M, other=0.0) * 1.4426950408889634
    lse = gl.where(lse == float("-inf"), 0.0, lse)  # `softmax.known`
    delta = gl.load(delta_ptr + score_rows, mask=score_rows < M, other=0.0)
    dq = gl.zeros([64, BLOCK_D], gl.float32, o_layout)
    mbarrier.wait(rows_full.index(0), 0)
    q = q_slots.index(PART)
    dout = dout_slots.index(PART)
    for i in range(edges + whole):
        dq = step(
            i, dq, q, dout, keys, values, lse, delta, score_rows, nth(i, where, BLOCK_N), i < edges,
            N, low, high, scale, cap, BLOCK_N, STAGES, CAPPED, s_layout, p_layout,
        )  # fmt: skip
    put(dq_ptr, dq_stride, dq * gradient_scale, first_row, M, D, BLOCK_D, o_layout, ADD)
