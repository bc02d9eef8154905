"""The backward kernel for dk and dv on Hopper: key tiles stay, row tiles pass (FlashAttention-2).

A program owns keys of one key head, and goes through the row tiles of every query head that reads
it: its sums are in registers from the first to the last, and nobody else adds to them. One warp
brings tiles of queries and output gradients by TMA, a second one what lse and delta make of them.
"""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute import key_gradients, one_gradient
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
from ring_attn_backends.cute.pipes import begin, load_at, load_of, new_pipe, new_vectors, order
from ring_attn_backends.cute.programs import Visit, seen, tile_and_head
from ring_attn_backends.cute.row_tiles import bring_rows, lines, tell_rows


@cute.jit
def backward_dkdv(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer, dout_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dk_ptr: cute.Pointer, dv_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, dout_strides, lse_strides, delta_strides,
    dk_strides, dv_strides, sizes, band, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every key tile and key head, as `arguments.dkdv_call` tells it."""
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
    dk = tokens(dk_ptr, (N, width, key_heads, batch), dk_strides, 2)
    dv = tokens(dv_ptr, (N, width_v, key_heads, batch), dv_strides, 2)
    dtype = q.element_type
    key_layout = swizzled(dtype, own, width, 1)
    value_layout = swizzled(dtype, own, width_v, 1)
    row_layout = swizzled(dtype, block, width, stages)
    dout_layout = swizzled(dtype, block, width_v, stages)
    k_atom, k_tiles = by_tma(k, key_layout, own)
    v_atom, v_tiles = by_tma(v, value_layout, own)
    q_atom, q_tiles = by_tma(q, row_layout, block)
    dout_atom, dout_tiles = by_tma(dout, dout_layout, block)
    tiles = (N + own - 1) // own
    program(
        (k_atom, v_atom, q_atom, dout_atom), (k_tiles, v_tiles, q_tiles, dout_tiles),
        lse, delta, dk, dv, tiles, section, band, scale, cap, gradient,
        key_layout, value_layout, row_layout, dout_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width if build.has_dk else width_v, MN_MAJOR, RMEM),
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
    row_layout: cute.ComposedLayout, dout_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dk (N, D, G, B) and dv (N, E, G, B) of 64 * groups keys of one key head.

    band: a row sees a key iff low <= row - key <= high, so a key a row iff -high <= key - row
    <= -low. gradient: what dk is multiplied by at last. Without values, and without writing dk, if
    the kernel is of dv alone; and of dk alone without writing dv.
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

    memory = SmemAllocator()
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, value_layout) if cutlass.const_expr(build.has_dk) else None
    queries = new_pipe(memory, dtype, row_layout)
    douts = new_pipe(memory, dtype, dout_layout)
    vectors = new_vectors(memory, 2, lines(config.block), config.stages)
    if warp == 0:
        for atom in atoms:
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in there(keys, values, queries, douts):
                begin(pipe, 4 * config.groups)
            begin(vectors, 4 * config.groups, writers=arch.WARP_SIZE)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    more, fewer = config.registers
    if warp >= 4 * config.groups:
        arch.setmaxregister_decrease(fewer)
        if warp == 4 * config.groups:
            k_load, *of_values, q_load, dout_load = [
                load_of(atom, matrix[None, None, None, entry], pipe)
                for atom, matrix, pipe in zip(
                    atoms, matrices, (keys, values, queries, douts), strict=True
                )
                if pipe is not None
            ]
            order(load_at(k_load, key_head), key_tile, keys, 0)
            for v_load in of_values:
                order(load_at(v_load, key_head), key_tile, values, 0)
            bring_rows(
                (q_load, dout_load), (queries, douts), (key_head * each, each), where, 0
            )  # fmt: skip
        if warp == 4 * config.groups + 1:
            tell_rows(
                (lse[None, None, entry], delta[None, None, entry]), vectors, (0, M),
                (key_head * each, each), where, 0, scale, build,
            )  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        gradients_of(build).gather(
            (keys, values, queries, douts, vectors), (scores_mma, sums_mma),
            (dk[None, None, key_head, entry], dv[None, None, key_head, entry]),
            (first_key, N), Visit(M, low, high, where), each, (scale, cap, gradient), build,
        )  # fmt: skip


def gradients_of(build):
    """What its warpgroups do: the sums of both, or of one."""
    return key_gradients if build.has_dk and build.has_dv else one_gradient


def there(*pipes):  # noqa: ANN002 - as above
    """Those that the kernel has."""
    return [pipe for pipe in pipes if pipe is not None]
