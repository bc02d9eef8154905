"""The backward kernel for dk, dv on Hopper: key tiles stay, row tiles pass (FlashAttention-2).

One warp brings tiles of queries and output gradients by TMA, and with them lse and delta; two or
three warpgroups have 64 keys each. Scores are transposed, keys x rows: weights and their gradients
come out of the tensor cores as the next products' left operands, and never leave the registers.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ring_attn_backends.triton.hopper.pipes import (
    barriers,
    bring,
    new_pipe,
    receive,
    release,
    send_with_vector,
)
from ring_attn_backends.triton.hopper.programs import (
    RUN_TIME,
    matrix_of,
    nth,
    seen,
    sides,
    tile_and_head,
    vector_of,
)
from ring_attn_backends.triton.scores import tanh


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
def _nth(i, each, where, BLOCK_M: gl.constexpr):
    """The i-th of all heads' row tiles: the edges of every head, then every head's whole tiles.

    Returns the head's number, and the tile's first row.
    """
    edges = where[3]
    is_edge = i < each * edges
    j = gl.where(is_edge, i, i - each * edges)
    count = gl.where(is_edge, edges, where[2])
    head = j // count
    return head, nth(j - head * count + gl.where(is_edge, 0, edges), where, BLOCK_M)


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
        head, first_row = _nth(i, each, where, BLOCK_M)
        head += first_head
        lse, delta = 0, 0
        if lse_desc is None:  # asked for before there is room for them: they take long to come
            lse = _numbers(lse_ptr, lse_strides, row_side, head, first_row, BLOCK_M)
            delta = _numbers(delta_ptr, delta_strides, row_side, head, first_row, BLOCK_M)
        send_with_vector(
            queries, lses, i, q_desc, row_side, first_row, head, lse_desc, lse,
            STAGES, BLOCK_M, BLOCK_D,
        )  # fmt: skip
        send_with_vector(
            douts, deltas, i, dout_desc, row_side, first_row, head, delta_desc, delta,
            STAGES, BLOCK_M, BLOCK_E,
        )  # fmt: skip


@gluon.jit
def _numbers(ptr, strides, side, head, first_row, BLOCK_M: gl.constexpr):
    """BLOCK_M of the rows' numbers, for a warp; 0 beyond the last row."""
    layout: gl.constexpr = gl.BlockedLayout([BLOCK_M // 32], [32], [1], [0])
    rows = first_row + gl.arange(0, BLOCK_M, layout)
    return gl.load(vector_of(side, head, ptr, strides) + rows, mask=rows < side[2], other=0.0)


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
        _, first_row = _nth(i, each, where, BLOCK_M)
        dk, dv = _step(
            i, dk, dv, k, v, queries, douts, lses, deltas, keys, first_row, M, low, high,
            scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV, s_layout, k_layout, v_layout,
            EDGE=True,
        )  # fmt: skip
    for i in range(edges, edges + each * where[2]):
        dk, dv = _step(
            i, dk, dv, k, v, queries, douts, lses, deltas, keys, 0, M, low, high,
            scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV, s_layout, k_layout, v_layout,
            EDGE=False,
        )  # fmt: skip
    if DK:
        _put(dk_ptr, dk_stride, dk * gradient_scale, first_key, N, D, BLOCK_D, k_layout, ADD)
    if DV:
        _put(dv_ptr, dv_stride, dv, first_key, N, E, BLOCK_E, v_layout, ADD)


@gluon.jit
def _put(
    ptr, stride, share, first_key, N,
    WIDTH: gl.constexpr, BLOCK: gl.constexpr, LAYOUT: gl.constexpr, ADD: gl.constexpr,
):  # fmt: skip
    """Writes a tile (64, BLOCK) of which WIDTH columns count, or adds it to what is there."""
    rows = first_key + gl.arange(0, 64, gl.SliceLayout(1, LAYOUT))
    cols = gl.arange(0, BLOCK, gl.SliceLayout(0, LAYOUT))
    inside = (rows < N)[:, None]
    if WIDTH < BLOCK:
        inside = inside & (cols < WIDTH)[None, :]
    pointers = ptr + rows.to(gl.int64)[:, None] * stride + cols[None, :]
    if ADD:
        share += gl.load(pointers, mask=inside, other=0.0)
    gl.store(pointers, share.to(ptr.dtype.element_ty), mask=inside)


@gluon.jit
def _step(
    i, dk, dv, k, v, queries, douts, lses, deltas, keys,
    first_row, M, low, high, scale, cap,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr,
    DK: gl.constexpr, DV: gl.constexpr, S_LAYOUT: gl.constexpr,
    K_LAYOUT: gl.constexpr, V_LAYOUT: gl.constexpr, EDGE: gl.constexpr,
):  # fmt: skip
    """Adds the i-th row tile's shares to dk and dv, if they are wanted.

    Products start at -lse and -delta where there is no softcap: these then need no registers of
    their own, which makes it a tenth faster.
    """
    dtype: gl.constexpr = k.dtype
    columns: gl.constexpr = gl.SliceLayout(0, S_LAYOUT)
    slot = i % STAGES
    zeros = gl.zeros([64, BLOCK_M], gl.float32, S_LAYOUT)
    dp = zeros
    q = receive(queries, i, STAGES)
    if not CAPPED:
        dout = receive(douts, i, STAGES)
        lse = _known(lses.index(slot).load(columns))
        start = zeros + (lse * (-1.4426950408889634 / scale))[None, :]
        if DK:
            dp_start = zeros - deltas.index(slot).load(columns)[None, :]
        s = warpgroup_mma(k, q.permute([1, 0]), start, is_async=True)
        if DK:
            dp = warpgroup_mma(v, dout.permute([1, 0]), dp_start, is_async=True)
    else:
        s = warpgroup_mma(k, q.permute([1, 0]), zeros, use_acc=False, is_async=True)
        dout = receive(douts, i, STAGES)
        if DK:
            dp = warpgroup_mma(v, dout.permute([1, 0]), zeros, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(1 if DK else 0, deps=[s])
    if not CAPPED:
        p = gl.exp2(s * scale)
    else:
        lse = _known(lses.index(slot).load(columns))
        t = tanh(s * scale, False)
        p = gl.exp2(cap * t - (lse * 1.4426950408889634)[None, :])
    if EDGE:
        rows = first_row + gl.arange(0, BLOCK_M, columns)
        distance = rows[None, :] - keys[:, None]
        visible = (distance >= low) & (distance <= high)
        p = gl.where(visible & (rows < M)[None, :], p, 0.0)
    if DV:
        weights = gl.convert_layout(p.to(dtype), gl.DotOperandLayout(0, V_LAYOUT, 2))
        dv = warpgroup_mma(weights, dout, dv, is_async=True)
    if DK:
        if CAPPED:
            p *= 1.0 - t * t  # the slope of cap * tanh
            if EDGE:  # NaN where an infinite score is masked, or a row beyond the last times inf
                p = gl.where(visible & (rows < M)[None, :], p, 0.0)
        dp = warpgroup_mma_wait(1 if DV else 0, deps=[dp])
        if CAPPED:
            dp = dp - deltas.index(slot).load(columns)[None, :]
        ds = p * dp
        if EDGE:  # with `rows < M` here as well it would spill
            ds = gl.where(visible, ds, 0.0)
        ds = gl.convert_layout(ds.to(dtype), gl.DotOperandLayout(0, K_LAYOUT, 2))
        dk = warpgroup_mma(ds, q, dk, is_async=True)
    if DV:
        dv = warpgroup_mma_wait(1 if DK else 0, deps=[dv])
    release(douts, i, STAGES)
    if DK:
        dk = warpgroup_mma_wait(0, deps=[dk])
    release(queries, i, STAGES)
    return dk, dv


@gluon.jit
def _known(lse):
    """What scores are relative to: finite where lse is -inf, so that no inf - inf is taken.

    All scores of such a row are -inf, or masked. A maximum costs less than `softmax.known`.
    """
    return gl.maximum(lse, -1e30, propagate_nan=tl.PropagateNan.ALL)
