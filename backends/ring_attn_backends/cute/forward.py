"""The forward kernel for Hopper (Shah et al. 2024, FlashAttention-3, algorithm 2).

One warp brings tiles of queries, keys and values by TMA; two or three warpgroups (`consumer`) have
64 rows each. All that a call may change is told at run time: lengths, strides, the band between
rows and keys. What it is compiled for is a `table.Build`.
"""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute.consumer import consume
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
from ring_attn_backends.cute.pipes import begin, bring_pairs, load_of, new_pipe, order
from ring_attn_backends.cute.programs import Visit, seen, tile_and_head


@cute.jit
def forward(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer,
    acc_ptr: cute.Pointer, out_ptr: cute.Pointer, lse_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, acc_strides, out_strides, lse_strides,
    sizes, band, scale: Float32, cap: Float32, stream: driver.CUstream,
    build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every row tile and head; the arguments are those of `arguments.Call`.

    Runs on the host, but for what TMA's descriptors and the grid need there is nothing to do.
    """
    batch, M, N, heads, key_heads, section = sizes
    config = build.config
    own, block, stages = config.own, config.block, config.stages
    width, width_v = config.width, config.width_v
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    k = tokens(k_ptr, (N, width, key_heads, batch), k_strides, 8)
    v = tokens(v_ptr, (N, width_v, key_heads, batch), v_strides, 8)
    acc = tokens(acc_ptr, (M, width_v, heads, batch), acc_strides, 2)
    out = tokens(out_ptr, (M, width_v, heads, batch), out_strides, 2)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    dtype = q.element_type
    q_layout = swizzled(dtype, own, width, 1)
    key_layout = swizzled(dtype, block, width, stages)
    value_layout = swizzled(dtype, block, width_v, stages)
    q_atom, q_tiles = by_tma(q, q_layout, own)
    k_atom, k_tiles = by_tma(k, key_layout, block)
    v_atom, v_tiles = by_tma(v, value_layout, block)
    tiles = (M + own - 1) // own
    program(
        q_atom, k_atom, v_atom, q_tiles, k_tiles, v_tiles, acc, out, lse,
        tiles, section, band, scale, cap, q_layout, key_layout, value_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width_v, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * heads * batch, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    q_atom: cute.CopyAtom, k_atom: cute.CopyAtom, v_atom: cute.CopyAtom,
    q_tiles: cute.Tensor, k_tiles: cute.Tensor, v_tiles: cute.Tensor,
    acc: cute.Tensor, out: cute.Tensor, lse: cute.Tensor,
    tiles, section, band, scale, cap,
    q_layout: cute.ComposedLayout, key_layout: cute.ComposedLayout,
    value_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, values_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """out (M, E, H, B) and lse (M, H, B) of 64 * groups rows of one head.

    band: a row sees a key iff low <= row - key <= high. `scale` must be positive: a row's largest
    product is then its largest score.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    low, high = band
    M, _, heads, batch = out.shape
    N, _, key_heads, _ = k_tiles.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    tile, head = tile_and_head(number, tiles, heads * batch, section, cutlass.min)
    entry, head = head // heads, head % heads
    key_head = head // (heads // key_heads)
    row_tile = tiles - 1 - tile  # under a causal mask the last rows have most keys
    first_row = row_tile * config.own
    last_row = cutlass.min(first_row + config.own, M) - 1
    where = seen(first_row, last_row, low, high, N, config.block, cutlass.min, cutlass.max)

    memory = SmemAllocator()
    queries = new_pipe(memory, dtype, q_layout)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, value_layout)
    if warp == 0:
        for atom in (q_atom, k_atom, v_atom):
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in (queries, keys, values):
                begin(pipe, 4 * config.groups)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    more, fewer = config.registers
    if warp >= 4 * config.groups:
        arch.setmaxregister_decrease(fewer)
        if warp == 4 * config.groups:
            q_load = load_of(q_atom, q_tiles[None, None, head, entry], queries)
            k_load = load_of(k_atom, k_tiles[None, None, key_head, entry], keys)
            v_load = load_of(v_atom, v_tiles[None, None, key_head, entry], values)
            order(q_load, row_tile, queries, 0)
            if where[2] + where[3] > 0:
                bring_pairs((k_load, v_load), (keys, values), where, 0)
    else:
        arch.setmaxregister_increase(more)
        consume(
            (queries, keys, values), (scores_mma, values_mma),
            (acc[None, None, head, entry], out[None, None, head, entry], lse[None, head, entry]),
            (first_row, M), Visit(N, low, high, where), (scale, cap), build,
        )  # fmt: skip
