"""The forward kernel for Hopper (Shah et al. 2024, FlashAttention-3, algorithm 2).

One warp brings tiles of keys and values by TMA; two or three warpgroups have 64 rows each. In a
warpgroup the products of queries and keys of tile i run on the tensor cores beside the weights of
tile i - 1 times its values, and the softmax of tile i under the latter.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ring_attn_backends.triton.hopper.online import finite, masked, soften, step
from ring_attn_backends.triton.hopper.pipes import (
    barriers,
    bring,
    new_pipe,
    receive,
    release,
    send,
)
from ring_attn_backends.triton.hopper.programs import (
    RUN_TIME,
    matrix_of,
    nth,
    results_of,
    seen,
    sides,
    tile_and_head,
    vector_of,
)


@gluon.jit(do_not_specialize=RUN_TIME)
def forward(
    q_desc, k_desc, v_desc, acc_ptr, out_ptr, lse_ptr, cu_rows_ptr, cu_keys_ptr,
    acc_strides, out_strides, lse_strides,
    tiles, heads, all_heads, section, group, M, N, low, high, scale, cap,
    E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, CAPPED: gl.constexpr, CARRIED: gl.constexpr,
) -> None:  # fmt: skip
    """out and lse of 64 * GROUPS rows of one head; grid (row tiles * heads * batch or documents).

    q (B, M, H, D), k (B, N, G, D) and v (B, N, G, E) come as descriptors of tiles of 64 rows, or
    BLOCK_N keys, of BLOCK_D or BLOCK_E columns: TMA fills those beyond D and E with 0. Pointers to
    cu_seqlens are None unless documents are packed. The numbers are explained in `arguments`.
    CARRIED: goes on from acc, an out in float32, and lse; out may be acc. `scale` must be positive:
    a row's largest product is then its largest score.
    """
    tile, head = tile_and_head(tiles, all_heads, section)
    row_side, key_side, low, high = sides(
        head // heads, cu_rows_ptr, cu_keys_ptr, M, N, low, high
    )  # fmt: skip
    M, N = row_side[2], key_side[2]
    into = results_of(row_side, head // heads, cu_rows_ptr)
    head = head % heads
    # under a causal mask the last rows have most keys
    first_row = (gl.cdiv(M, 64 * GROUPS) - 1 - tile) * 64 * GROUPS
    if cu_rows_ptr is not None:  # noqa: SIM102 - Triton would compile what stands behind an `and`
        if first_row < 0:  # a shorter document than the longest
            return
    last_row = gl.minimum(first_row + 64 * GROUPS, M) - 1
    where = seen(first_row, last_row, -high, -low, N, BLOCK_N)
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    q_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_D], layout)
    q_full = barriers(1, 1)
    keys = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_D, GROUPS)
    values = new_pipe(dtype, STAGES, BLOCK_N, BLOCK_E, GROUPS)
    acc_ptr = matrix_of(into, head, acc_ptr, acc_strides)
    out_ptr = matrix_of(into, head, out_ptr, out_strides)
    lse_ptr = vector_of(into, head, lse_ptr, lse_strides)
    given = (
        q_slots, q_full, keys, values, acc_ptr, out_ptr, lse_ptr, acc_strides[1], out_strides[1],
        first_row, where, M, N, low, high, scale, cap,
    )  # fmt: skip
    fetch = (
        q_desc, k_desc, v_desc, q_slots, q_full, keys, values, row_side, key_side,
        head, head // group, first_row, where,
    )  # fmt: skip
    # registers: a program has 65536, for the consumers' warpgroups and for the producer's
    if GROUPS == 2:
        gl.warp_specialize(
            [
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, CARRIED, 0)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, CARRIED, 1)),
                (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_N, STAGES, GROUPS)),
            ],
            [4, 1],
            [240, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, CARRIED, 0)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, CARRIED, 1)),
                (_consume, (given, E, BLOCK_E, BLOCK_N, STAGES, CAPPED, CARRIED, 2)),
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
    """Brings the queries, then tile after tile of keys and values."""
    (
        q_desc, k_desc, v_desc, q_slots, q_full, keys, values, row_side, key_side,
        head, key_head, first_row, where,
    ) = fetch  # fmt: skip
    mbarrier.expect(q_full.index(0), GROUPS * 64 * BLOCK_D * 2)
    for part in gl.static_range(GROUPS):
        row = first_row + part * 64
        bring(q_desc, row_side, row, head, q_full.index(0), q_slots.index(part))
    for i in range(where[2] + where[3]):
        first_key = nth(i, where, BLOCK_N)
        send(keys, i, k_desc, key_side, first_key, key_head, STAGES, BLOCK_N, BLOCK_D)
        send(values, i, v_desc, key_side, first_key, key_head, STAGES, BLOCK_N, BLOCK_E)


@gluon.jit
def _consume(
    given, E: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    CAPPED: gl.constexpr, CARRIED: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the rows."""
    (
        q_slots, q_full, keys, values, acc_ptr, out_ptr, lse_ptr, acc_stride, out_stride,
        first_row, where, M, N, low, high, scale, cap,
    ) = given  # fmt: skip
    whole, edges = where[2], where[3]
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_E, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    s_rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = q_slots.dtype
    first_row += PART * 64
    rows = first_row + gl.arange(0, 64, s_rows)
    out_rows = first_row + gl.arange(0, 64, o_rows)
    cols = gl.arange(0, BLOCK_E, gl.SliceLayout(0, o_layout))
    inside = (out_rows < M)[:, None]
    if E < BLOCK_E:
        inside = inside & (cols < E)[None, :]
    if CARRIED:
        pointers = acc_ptr + out_rows.to(gl.int64)[:, None] * acc_stride + cols[None, :]
        acc = gl.load(pointers, mask=inside, other=0.0).to(gl.float32)
        peak = gl.load(lse_ptr + rows, mask=rows < M, other=0.0) * 1.4426950408889634
        total = gl.exp2(peak - finite(peak))  # 1; 0 where no key was seen, inf where lse is inf
    else:
        acc = gl.zeros([64, BLOCK_E], gl.float32, o_layout)
        peak = gl.full([64], float("-inf"), gl.float32, s_rows)
        total = gl.zeros([64], gl.float32, s_rows)
    count = edges + whole
    mbarrier.wait(q_full.index(0), 0)
    q = q_slots.index(PART)
    if count > 0:
        k = receive(keys, 0, STAGES)
        zeros = gl.zeros([64, BLOCK_N], gl.float32, s_layout)
        s = warpgroup_mma(q, k.permute([1, 0]), zeros, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[s])
        release(keys, 0, STAGES)
        s = masked(s, rows, nth(0, where, BLOCK_N), N, low, high, scale, cap,
                    BLOCK_N, s_layout, CAPPED)  # fmt: skip
        p, fade, total, peak = soften(s, total, peak, scale, CAPPED)
        if CARRIED:
            acc = acc * gl.convert_layout(fade, o_rows)[:, None]
        weights = gl.convert_layout(p.to(dtype), p_layout)
        for i in range(1, edges):
            acc, weights, total, peak = step(
                i, acc, weights, total, peak, q, keys, values, rows, nth(i, where, BLOCK_N), N,
                low, high, scale, cap, BLOCK_N, STAGES, CAPPED, s_layout, p_layout, o_rows,
                EDGE=True,
            )  # fmt: skip
        for i in range(gl.maximum(edges, 1), count):
            acc, weights, total, peak = step(
                i, acc, weights, total, peak, q, keys, values, rows, 0, N,
                low, high, scale, cap, BLOCK_N, STAGES, CAPPED, s_layout, p_layout, o_rows,
                EDGE=False,
            )  # fmt: skip
        v = receive(values, count - 1, STAGES)
        acc = warpgroup_mma(weights, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
    inverse = 1.0 / gl.where(total == 0.0, 1.0, total)
    out = acc * gl.convert_layout(inverse, o_rows)[:, None]
    pointers = out_ptr + out_rows.to(gl.int64)[:, None] * out_stride + cols[None, :]
    gl.store(pointers, out.to(out_ptr.dtype.element_ty), mask=inside)
    lse = (finite(peak) + gl.log2(total)) * 0.6931471805599453  # ln(2)
    gl.store(lse_ptr + rows, lse, mask=rows < M)
