"""The backward kernel for dk and dv over packed documents: as `backward_dkdv`, of one it finds."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute.key_gradients import gather
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
    keys_visit,
    load_from,
    new_place,
    part,
    place_in,
)
from ring_attn_backends.cute.pipes import begin, new_pipe, new_vectors, order
from ring_attn_backends.cute.programs import tile_and_head
from ring_attn_backends.cute.row_tiles import bring_rows, lines, tell_rows


@cute.jit
def backward_dkdv(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer, dout_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dk_ptr: cute.Pointer, dv_ptr: cute.Pointer,
    row_starts_ptr: cute.Pointer, key_starts_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, dout_strides, lse_strides, delta_strides,
    dk_strides, dv_strides, sizes, band, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for as many tiles of keys as documents may have."""
    documents, T, S, heads, key_heads, section, tiles = sizes
    config = build.config
    own, block, width, stages = config.own, config.block, config.width, config.stages
    lse = numbers(lse_ptr, (T, heads, 1), lse_strides)
    delta = numbers(delta_ptr, (T, heads, 1), delta_strides)
    dk = tokens(dk_ptr, (S, width, key_heads, 1), dk_strides, 2)
    dv = tokens(dv_ptr, (S, width, key_heads, 1), dv_strides, 2)
    dtype = q_ptr.dtype
    key_layout = swizzled(dtype, own, width, 1)
    row_layout = swizzled(dtype, block, width, stages)
    matrices = [
        by_tma(ragged(pointer, (width, of_heads), strides), layout, count)
        for pointer, of_heads, strides, layout, count in (
            (k_ptr, key_heads, k_strides, key_layout, own),
            (v_ptr, key_heads, v_strides, key_layout, own),
            (q_ptr, heads, q_strides, row_layout, block),
            (dout_ptr, heads, dout_strides, row_layout, block),
        )
    ]
    program(
        [atom for atom, _ in matrices], [matrix for _, matrix in matrices],
        lse, delta, dk, dv, (table(row_starts_ptr), table(key_starts_ptr)), documents,
        tiles, section, band, scale, cap, gradient, key_layout, row_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * key_heads, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, dk: cute.Tensor, dv: cute.Tensor,
    starts, documents, tiles, section, band, scale, cap, gradient,
    key_layout: cute.ComposedLayout, row_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dk and dv (S, D, G, 1) of 64 * groups keys of one key head of one document.

    gradient: what dk is multiplied by at last; the rest as in `forward.program`.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    _, _, key_heads, _ = dk.shape
    _, heads, _ = lse.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    nth, key_head = tile_and_head(number, tiles, key_heads, section, cutlass.min)
    each = heads // key_heads
    of_group = key_head * each, each

    memory = SmemAllocator()
    told = new_place(memory)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, key_layout)
    queries = new_pipe(memory, dtype, row_layout)
    douts = new_pipe(memory, dtype, row_layout)
    vectors = new_vectors(memory, 2, lines(config.block), config.stages)
    if warp == 4 * config.groups:
        find(told, nth, starts, documents, Tiling(config.own, band[0], True))
    if warp == 0:
        for atom in atoms:
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in (keys, values, queries, douts):
                begin(pipe, 4 * config.groups)
            begin(vectors, 4 * config.groups, writers=arch.WARP_SIZE)
    arch.mbarrier_init_fence()
    arch.sync_threads()

    place = place_in(told)
    if place.tile >= 0:
        first_key, visit = keys_visit(place, band, config)
        more, fewer = config.registers
        of_rows, of_keys = (place.first_row, place.rows), (place.first_key, place.keys)
        if warp >= 4 * config.groups:
            arch.setmaxregister_decrease(fewer)
            if warp == 4 * config.groups:
                for atom, matrix, pipe in zip(atoms[:2], matrices[:2], (keys, values), strict=True):
                    of_head = matrix[None, None, key_head, None, None]
                    order(load_from(atom, of_head, of_keys, pipe), place.tile, pipe, 0)
                loads = [
                    load_from(atom, matrix, of_rows, pipe)
                    for atom, matrix, pipe in zip(
                        atoms[2:], matrices[2:], (queries, douts), strict=True
                    )
                ]
                bring_rows(loads, (queries, douts), of_group, visit.where, 0)
            if warp == 4 * config.groups + 1:
                tell_rows(
                    (lse[None, None, 0], delta[None, None, 0]), vectors, of_rows, of_group,
                    visit.where, 0, scale, build,
                )  # fmt: skip
        else:
            arch.setmaxregister_increase(more)
            results = [part(x[None, None, key_head, 0], place.first_key) for x in (dk, dv)]
            gather(
                (keys, values, queries, douts, vectors), (scores_mma, sums_mma), results,
                (first_key, place.keys), visit, each, (scale, cap, gradient), build,
            )  # fmt: skip
