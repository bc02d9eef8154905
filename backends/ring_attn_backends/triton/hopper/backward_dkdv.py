"""The backward kernel for dk, dv on Hopper: key tiles stay, row tiles pass (FlashAttention-2).

One warp brings tiles of queries and output gradients by TMA, and with them lse and delta; two or
three warpgroups have 64 keys each.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from ring_attn_backends.triton.hopper.key_gradients import nth_of_heads, numbers, put, step
from ring_attn_backends.triton.hopper.pipes import barriers, bring, new_pipe, send_with_vector
from ring_attn_backends.triton.hopper.programs import (
    RUN_TIME,
    matrix_of,
    seen,
    sides,
    tile_and_head,
)


@gluon.jit(do_not_specialize=(*RUN_TIME, "splits"))
def backward_dkdv(
    dout_desc, q_desc, k_desc, v_desc, lse_desc, delta_desc, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    cu_rows_ptr, cu_keys_ptr, lse_strides, delta_strides, dk_strides, dv_strides,
    dk_split, dv_split,
    tiles, heads, all_heads, section, group, splits, M, N, low, high, scale, cap, gradient_scale,
    D: gl.constexpr, E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, GROUPS: gl.constexpr,
    CAPPED: gl.constexpr, ADD: gl.constexpr, DK: gl.constexpr, DV: gl.constexpr,
) -> None:  # fmt: skip
    """dk and dv of 64 * GROUPS keys of one key head, from 1 / splits of its query heads.

    Grid (key tiles * key heads * splits * batch or documents); `heads` counts a key head `splits`
    times. Where splits > 1, each writes its share dk_split and dv_split elements further on, for
    `sum_splits`. dout (B, M, H, E), q (B, M, H, D), k (B, N, G, D) and v (B, N, G, E) come as
    descriptors of tiles of BLOCK_M rows, or 64 keys, and so do lse and delta (B, H, M) unless these
    descriptors are None; documents as in `forward`. ADD: to what dk and dv hold. DK, DV: which are
    wanted; where both do not fit in the registers, they are two launches.
    """
    tile, head = tile_and_head(tiles, all_heads, section)
    row_side, key_side, low, high = sides(
        head // heads, cu_rows_ptr, cu_keys_ptr, M, N, low, high
    )  # fmt: skip
    M, N = row_side[2], key_side[2]
    head = head % heads
    key_head = head // splits
    part = head % splits
    each = group // splits
    # under a causal mask the first keys are seen by most rows
    first_key = tile * 64 * GROUPS
    if cu_keys_ptr is not None:  # noqa: SIM102 - Triton would compile what stands behind an `and`
        if first_key >= N:  # a shorter document than the longest
            return
    last_key = gl.minimum(first_key + 64 * GROUPS, N) - 1
    where = seen(first_key, last_key, low, high, M, BLOCK_M)
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    line: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)
    stored: gl.constexpr = lse_desc is None
    k_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_D], layout)
    v_slots = k_slots  # a stand-in
    if DK:
        v_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_E], layout)
    keys_full = barriers(1, 1)
    queries = new_pipe(dtype, STAGES, BLOCK_M, BLOCK_D, GROUPS, stored)
    douts = new_pipe(dtype, STAGES, BLOCK_M, BLOCK_E, GROUPS, stored)
    lses = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_M], line)
    deltas = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_M], line)
    dk_ptr = matrix_of(key_side, key_head, dk_ptr, dk_strides) + part.to(gl.int64) * dk_split
    dv_ptr = matrix_of(key_side, key_head, dv_ptr, dv_strides) + part.to(gl.int64) * dv_split
    given = (
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, dk_ptr, dv_ptr,
        dk_strides[1], dv_strides[1], first_key, N, each, where, M, low, high,
        scale, cap, gradient_scale,
    )  # fmt: skip
    fetch = (
        dout_desc, q_desc, k_desc, v_desc, lse_desc, delta_desc, lse_ptr, delta_ptr,
        lse_strides, delta_strides,
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, row_side, key_side, key_head,
        key_head * group + part * each, each, first_key, where,
    )  # fmt: skip
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (
                    given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, ADD, DK, DV, 0,
                )),
                (_consume, (
                    given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, ADD, DK, DV, 1,
                )),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, GROUPS, DK)),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (_consume, (
                    given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, ADD, DK, DV, 0,
                )),
                (_consume, (
                    given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, ADD, DK, DV, 1,
                )),
                (_consume, (
                    given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, ADD, DK, DV, 2,
                )),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, GROUPS, DK)),
            ],
            [4, 4, 1],
            [160, 160, 24],
        )  # fmt: skip


@gluon.jit
def _produce(
    fetch, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_M: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, DK: gl.constexpr,
):  # fmt: skip
    """Brings the keys and values, then tile after tile of rows, of head after head."""
    (
        dout_desc, q_desc, k_desc, v_desc, lse_desc, delta_desc, lse_ptr, delta_ptr,
        lse_strides, delta_strides,
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, row_side, key_side, key_head,
        first_head, each, first_key, where,
    ) = fetch  # fmt: skip
    full = keys_full.index(0)
    width: gl.constexpr = BLOCK_D + BLOCK_E if DK else BLOCK_D
    mbarrier.expect(full, GROUPS * 64 * width * 2)
    for part in gl.static_range(GROUPS):
        key = first_key + part * 64
        bring(k_desc, key_side, key, key_head, full, k_slots.index(part))
        if DK:
            bring(v_desc, key_side, key, key_head, full, v_slots.index(part))
    for i in range(each * (where[2] + where[3])):
        head, first_row = nth_of_heads(i, each, where, BLOCK_M)
        head += first_head
        lse, delta = 0, 0
        if lse_desc is None:  # asked for before there is room for them: they take long to come
            lse = numbers(lse_ptr, lse_strides, row_side, head, first_row, BLOCK_M)
            delta = numbers(delta_ptr, delta_strides, row_side, head, first_row, BLOCK_M)
        send_with_vector(
            queries, lses, i, q_desc, row_side, first_row, head, lse_desc, lse,
            STAGES, BLOCK_M, BLOCK_D,
        )  # fmt: skip
        send_with_vector(
            douts, deltas, i, dout_desc, row_side, first_row, head, delta_desc, delta,
            STAGES, BLOCK_M, BLOCK_E,
        )  # fmt: skip


@gluon.jit
def _consume(
    given, D: gl.constexpr, E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr, ADD: gl.constexpr,
    DK: gl.constexpr, DV: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the keys."""
    (
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, dk_ptr, dv_ptr,
        dk_stride, dv_stride, first_key, N, each, where, M, low, high,
        scale, cap, gradient_scale,
    ) = given  # fmt: skip
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    k_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    v_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_E, 16])
    first_key += PART * 64
    keys = first_key + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    dk = gl.zeros([64, BLOCK_D], gl.float32, k_layout)
    dv = gl.zeros([64, BLOCK_E], gl.float32, v_layout)
    mbarrier.wait(keys_full.index(0), 0)
    k = k_slots.index(PART)
    v = v_slots.index(PART)
    edges = each * where[3]
    for i in range(edges):
        _, first_row = nth_of_heads(i, each, where, BLOCK_M)
        dk, dv = step(
            i, dk, dv, k, v, queries, douts, lses, deltas, keys, first_row, M, low, high,
            scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV, s_layout, k_layout, v_layout,
            EDGE=True,
        )  # fmt: skip
    for i in range(edges, edges + each * where[2]):
        dk, dv = step(
            i, dk, dv, k, v, queries, douts, lses, deltas, keys, 0, M, low, high,
            scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV, s_layout, k_layout, v_layout,
            EDGE=False,
        )  # fmt: skip
    if DK:
        put(dk_ptr, dk_stride, dk * gradient_scale, first_key, N, D, BLOCK_D, k_layout, ADD)
    if DV:
        put(dv_ptr, dv_stride, dv, first_key, N, E, BLOCK_E, v_layout, ADD)
