"""The backward kernel for dq over packed documents: as `backward_dq`, of a document it finds."""
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
    ragged,
    swizzled,
    table,
    tokens,
)
from ring_attn_backends.cute.packed.places import Tiling, find
from ring_attn_backends.cute.packed.programs import (
    load_from,
    new_place,
    part,
    place_in,
    rows_visit,
)
from ring_attn_backends.cute.pipes import begin, bring_abreast, new_pipe, order
from ring_attn_backends.cute.programs import tile_and_head
from ring_attn_backends.cute.row_gradients import gather


@cute.jit
def backward_dq(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer, dout_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dq_ptr: cute.Pointer,
    row_starts_ptr: cute.Pointer, key_starts_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, dout_strides, lse_strides, delta_strides, dq_strides,
    sizes, band, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for as many tiles of rows as documents may have."""
    documents, T, _, heads, key_heads, section, tiles = sizes
    config = build.config
    own, block, width, stages = config.own, config.block, config.width, config.stages
    lse = numbers(lse_ptr, (T, heads, 1), lse_strides)
    delta = numbers(delta_ptr, (T, heads, 1), delta_strides)
    dq = tokens(dq_ptr, (T, width, heads, 1), dq_strides, 2)
    dtype = q_ptr.dtype
    row_layout = swizzled(dtype, own, width, 1)
    key_layout = swizzled(dtype, block, width, stages)
    matrices = [
        by_tma(ragged(pointer, (width, of_heads), strides), layout, count)
        for pointer, of_heads, strides, layout, count in (
            (q_ptr, heads, q_strides, row_layout, own),
            (dout_ptr, heads, dout_strides, row_layout, own),
            (k_ptr, key_heads, k_strides, key_layout, block),
            (v_ptr, key_heads, v_strides, key_layout, block),
        )
    ]
    program(
        [atom for atom, _ in matrices], [matrix for _, matrix in matrices],
        lse, delta, dq, (table(row_starts_ptr), table(key_starts_ptr)), documents,
        key_heads, tiles, section, band, scale, cap, gradient, row_layout, key_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * heads, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, dq: cute.Tensor,
    starts, documents, key_heads, tiles, section, band, scale, cap, gradient,
    row_layout: cute.ComposedLayout, key_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dq (T, D, H, 1) of 64 * groups rows of one head of one document; all as in `forward.program`.

    gradient: what dq is multiplied by at last.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    _, _, heads, _ = dq.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    nth, head = tile_and_head(number, tiles, heads, section, cutlass.min)
    key_head = head // (heads // key_heads)

    memory = SmemAllocator()
    told = new_place(memory)
    queries = new_pipe(memory, dtype, row_layout)
    douts = new_pipe(memory, dtype, row_layout)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, key_layout)
    pipes = (queries, douts, keys, values)
    if warp == 4 * config.groups:
        find(told, nth, starts, documents, Tiling(config.own, band[0], False))
    if warp == 0:
        for atom in atoms:
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in pipes:
                begin(pipe, 4 * config.groups)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    place = place_in(told)
    if place.tile >= 0:
        first_row, visit = rows_visit(place, band, config)
        more, fewer = config.registers
        if warp >= 4 * config.groups:
            arch.setmaxregister_decrease(fewer)
            if warp == 4 * config.groups:
                of_rows, of_keys = (place.first_row, place.rows), (place.first_key, place.keys)
                sides = (head, of_rows), (head, of_rows), (key_head, of_keys), (key_head, of_keys)
                loads = [
                    load_from(atom, matrix[None, None, each, None, None], side, pipe)
                    for atom, matrix, (each, side), pipe in zip(
                        atoms, matrices, sides, pipes, strict=True
                    )
                ]
                order(loads[0], place.tile, queries, 0)
                order(loads[1], place.tile, douts, 0)
                bring_abreast(loads[2:], (keys, values), visit.where, 0)
        else:
            arch.setmaxregister_increase(more)
            vectors = [part(x[None, head, 0], place.first_row) for x in (lse, delta)]
            gather(
                pipes, (scores_mma, sums_mma), vectors,
                part(dq[None, None, head, 0], place.first_row), (first_row, place.rows), visit,
                (scale, cap, gradient), build,
            )  # fmt: skip
