"""The backward kernel for dq on Hopper: row tiles stay, key tiles pass (FlashAttention-2).

It multiplies queries and keys, and dout and values, once more than one kernel for all three
gradients would: for that, nothing is added up by several programs, and sums come out the same.
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
    by_tma,
    numbers,
    product,
    swizzled,
    tokens,
)
from ring_attn_backends.cute.pipes import begin, bring_abreast, load_of, new_pipe, order
from ring_attn_backends.cute.programs import Visit, seen, tile_and_head
from ring_attn_backends.cute.row_gradients import gather


@cute.jit
def backward_dq(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer, dout_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dq_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, dout_strides, lse_strides, delta_strides, dq_strides,
    sizes, band, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every row tile and head, as `arguments.dq_call` tells it."""
    batch, M, N, heads, key_heads, section = sizes
    config = build.config
    own, block, stages = config.own, config.block, config.stages
    width, width_v = config.width, config.width_v
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    k = tokens(k_ptr, (N, width, key_heads, batch), k_strides, 8)
    v = tokens(v_ptr, (N, width_v, key_heads, batch), v_strides, 8)
    dout = tokens(dout_ptr, (M, width_v, heads, batch), dout_strides, 8)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    delta = numbers(delta_ptr, (M, heads, batch), delta_strides)
    dq = tokens(dq_ptr, (M, width, heads, batch), dq_strides, 2)
    dtype = q.element_type
    row_layout = swizzled(dtype, own, width, 1)
    dout_layout = swizzled(dtype, own, width_v, 1)
    key_layout = swizzled(dtype, block, width, stages)
    value_layout = swizzled(dtype, block, width_v, stages)
    q_atom, q_tiles = by_tma(q, row_layout, own)
    dout_atom, dout_tiles = by_tma(dout, dout_layout, own)
    k_atom, k_tiles = by_tma(k, key_layout, block)
    v_atom, v_tiles = by_tma(v, value_layout, block)
    tiles = (M + own - 1) // own
    program(
        (q_atom, dout_atom, k_atom, v_atom), (q_tiles, dout_tiles, k_tiles, v_tiles),
        lse, delta, dq, tiles, section, band, scale, cap, gradient,
        row_layout, dout_layout, key_layout, value_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * heads * batch, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, dq: cute.Tensor,
    tiles, section, band, scale, cap, gradient,
    row_layout: cute.ComposedLayout, dout_layout: cute.ComposedLayout,
    key_layout: cute.ComposedLayout, value_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dq (M, D, H, B) of 64 * groups rows of one head; band and order as in `forward.program`.

    gradient: what dq is multiplied by at last.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    low, high = band
    M, _, heads, batch = dq.shape
    N, _, key_heads, _ = matrices[2].shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    tile, head = tile_and_head(number, tiles, heads * batch, section, cutlass.min)
    entry, head = head // heads, head % heads
    key_head = head // (heads // key_heads)
    row_tile = tiles - 1 - tile
    first_row = row_tile * config.own
    last_row = cutlass.min(first_row + config.own, M) - 1
    where = seen(first_row, last_row, low, high, N, config.block, cutlass.min, cutlass.max)

    memory = SmemAllocator()
    queries = new_pipe(memory, dtype, row_layout)
    douts = new_pipe(memory, dtype, dout_layout)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, value_layout)
    pipes = (queries, douts, keys, values)
    if warp == 0:
        for atom in atoms:
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in pipes:
                begin(pipe, 4 * config.groups)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    more, fewer = config.registers
    if warp >= 4 * config.groups:
        arch.setmaxregister_decrease(fewer)
        if warp == 4 * config.groups:
            loads = [
                load_of(atom, matrix[None, None, each, entry], pipe)
                for atom, matrix, each, pipe in zip(
                    atoms, matrices, (head, head, key_head, key_head), pipes, strict=True
                )
            ]
            order(loads[0], row_tile, queries, 0)
            order(loads[1], row_tile, douts, 0)
            bring_abreast(loads[2:], (keys, values), where, 0)
    else:
        arch.setmaxregister_increase(more)
        gather(
            pipes, (scores_mma, sums_mma), (lse[None, head, entry], delta[None, head, entry]),
            dq[None, None, head, entry], (first_row, M), Visit(N, low, high, where),
            (scale, cap, gradient), build,
        )  # fmt: skip
