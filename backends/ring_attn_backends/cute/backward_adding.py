"""The backward kernel for dq, dk and dv on Hopper: key tiles stay, row tiles pass, dq is added to.

Five products for the seven of `backward_dkdv` and `backward_dq`, and for that all programs of a
head add to the same rows of dq, in whatever order they come to them: its last bits are others each
time. It is for who does not ask for the same bits. dk and dv are as `backward_dkdv` has them.
"""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute.operands import (
    K_MAJOR,
    MN_MAJOR,
    RMEM,
    SMEM,
    adding_by_tma,
    by_tma,
    numbers,
    product,
    split_product,
    swizzled,
    tokens,
)
from ring_attn_backends.cute.pipes import begin, load_at, load_of, new_pipe, new_vectors, order
from ring_attn_backends.cute.programs import Visit, all_edges, seen, tile_and_head
from ring_attn_backends.cute.row_tiles import add_rows, bring_rows, lines, tell_rows
from ring_attn_backends.cute.shares import gather


@cute.jit
def backward_adding(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer, dout_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer,
    dq_ptr: cute.Pointer, dk_ptr: cute.Pointer, dv_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, dout_strides, lse_strides, delta_strides,
    dq_strides, dk_strides, dv_strides,
    sizes, band, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every key tile and key head, as `arguments.adding_call` tells it."""
    batch, M, N, heads, key_heads, section = sizes
    config = build.config
    own, block, width, stages = config.own, config.block, config.width, config.stages
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    k = tokens(k_ptr, (N, width, key_heads, batch), k_strides, 8)
    v = tokens(v_ptr, (N, width, key_heads, batch), v_strides, 8)
    dout = tokens(dout_ptr, (M, width, heads, batch), dout_strides, 8)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    delta = numbers(delta_ptr, (M, heads, batch), delta_strides)
    dq = tokens(dq_ptr, (M, width, heads, batch), dq_strides, 4)
    dk = tokens(dk_ptr, (N, width, key_heads, batch), dk_strides, 2)
    dv = tokens(dv_ptr, (N, width, key_heads, batch), dv_strides, 2)
    dtype = q.element_type
    # of which a warpgroup reads its part of the columns, for dq
    key_layout = swizzled(dtype, own, width, 1, min(64, width // config.split[1]))
    value_layout = swizzled(dtype, own, width, 1)
    row_layout = swizzled(dtype, block, width, stages)
    shown_layout = swizzled(dtype, own, block, config.shown)
    staged_layout = swizzled(Float32, block, width, 1)
    k_atom, k_tiles = by_tma(k, key_layout, own)
    v_atom, v_tiles = by_tma(v, value_layout, own)
    q_atom, q_tiles = by_tma(q, row_layout, block)
    dout_atom, dout_tiles = by_tma(dout, row_layout, block)
    dq_atom, dq_tiles = adding_by_tma(dq, staged_layout, block)
    tiles = (N + own - 1) // own
    program(
        (k_atom, v_atom, q_atom, dout_atom, dq_atom),
        (k_tiles, v_tiles, q_tiles, dout_tiles, dq_tiles),
        lse, delta, dk, dv, tiles, section, band, scale, cap, gradient,
        key_layout, value_layout, row_layout, shown_layout, staged_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width, MN_MAJOR, RMEM),
        split_product(dtype, config.split, width),
        build,
    ).launch(
        grid=(tiles * key_heads * batch, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, dk: cute.Tensor, dv: cute.Tensor,
    tiles, section, band, scale, cap, gradient,
    key_layout: cute.ComposedLayout, value_layout: cute.ComposedLayout,
    row_layout: cute.ComposedLayout, shown_layout: cute.ComposedLayout,
    staged_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, dq_mma: cute.TiledMma,
    build: cutlass.Constexpr,
):  # fmt: skip
    """dk and dv (N, D, G, B) of 64 * groups keys of one key head, and their share of dq.

    band as in `backward_dkdv.program`. gradient: what dk and shares are multiplied by at last.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    low, high = band
    N, _, key_heads, batch = dk.shape
    M, heads, _ = lse.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    # under a causal mask the first keys are seen by most rows
    key_tile, key_head = tile_and_head(number, tiles, key_heads * batch, section, cutlass.min)
    entry, key_head = key_head // key_heads, key_head % key_heads
    each = heads // key_heads
    first_key = key_tile * config.own
    last_key = cutlass.min(first_key + config.own, N) - 1
    where = seen(first_key, last_key, -high, -low, M, config.block, cutlass.min, cutlass.max)
    where = all_edges(where, first_key + config.own > N)
    rows = key_head * each, each

    memory = SmemAllocator()
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, value_layout)
    queries = new_pipe(memory, dtype, row_layout)
    douts = new_pipe(memory, dtype, row_layout)
    shown = new_pipe(memory, dtype, shown_layout)
    staged = new_pipe(memory, Float32, staged_layout)
    vectors = new_vectors(memory, 2, lines(config.block), config.stages)
    if warp == 0:
        for atom in atoms:
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in (keys, values, queries, douts):
                begin(pipe, 4 * config.groups)
            begin(vectors, 4 * config.groups, writers=arch.WARP_SIZE)
            begin(shown, 4 * config.groups, writers=4 * config.groups)
            begin(staged, 1, writers=4 * config.groups)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    more, fewer = config.registers
    if warp >= 4 * config.groups:
        arch.setmaxregister_decrease(fewer)
        if warp == 4 * config.groups:
            loads = [
                load_of(atom, matrix[None, None, None, entry], pipe)
                for atom, matrix, pipe in zip(
                    atoms[:4], matrices[:4], (keys, values, queries, douts), strict=True
                )
            ]
            order(load_at(loads[0], key_head), key_tile, keys, 0)
            order(load_at(loads[1], key_head), key_tile, values, 0)
            bring_rows(loads[2:], (queries, douts), rows, where, 0)
        if warp == 4 * config.groups + 1:
            tell_rows(
                (lse[None, None, entry], delta[None, None, entry]), vectors, (0, M), rows, where, 0,
                scale, build,
            )  # fmt: skip
        if warp == 4 * config.groups + 2:
            add_rows(load_of(atoms[4], matrices[4][None, None, None, entry], staged), staged, rows,
                     where, 0)  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        gather(
            (keys, values, queries, douts, vectors, shown, staged),
            (scores_mma, sums_mma, dq_mma),
            (dk[None, None, key_head, entry], dv[None, None, key_head, entry]),
            (first_key, N), Visit(M, low, high, where), each, (scale, cap, gradient), build,
        )  # fmt: skip
