"""The forward kernel over packed documents: as `forward`, but that a program finds its document.

TMA is told all tokens, and of each document where it stops (`operands.ragged`). Lengths are read on
the GPU alone: other ones are neither compiled nor told by the host.
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
from ring_attn_backends.cute.pipes import begin, bring_pairs, new_pipe, order
from ring_attn_backends.cute.programs import tile_and_head


@cute.jit
def forward(
    q_ptr: cute.Pointer, k_ptr: cute.Pointer, v_ptr: cute.Pointer,
    out_ptr: cute.Pointer, lse_ptr: cute.Pointer,
    row_starts_ptr: cute.Pointer, key_starts_ptr: cute.Pointer,
    q_strides, k_strides, v_strides, out_strides, lse_strides,
    sizes, band, scale: Float32, cap: Float32, stream: driver.CUstream,
    build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for as many tiles as documents may have, as `launch.forward_call` says."""
    documents, T, _, heads, key_heads, section, tiles = sizes
    config = build.config
    own, block, width, stages = config.own, config.block, config.width, config.stages
    out = tokens(out_ptr, (T, width, heads, 1), out_strides, 2)
    lse = numbers(lse_ptr, (T, heads, 1), lse_strides)
    dtype = q_ptr.dtype
    q_layout = swizzled(dtype, own, width, 1)
    key_layout = swizzled(dtype, block, width, stages)
    q_atom, q_tiles = by_tma(ragged(q_ptr, (width, heads), q_strides), q_layout, own)
    k_atom, k_tiles = by_tma(ragged(k_ptr, (width, key_heads), k_strides), key_layout, block)
    v_atom, v_tiles = by_tma(ragged(v_ptr, (width, key_heads), v_strides), key_layout, block)
    program(
        q_atom, k_atom, v_atom, q_tiles, k_tiles, v_tiles, out, lse,
        (table(row_starts_ptr), table(key_starts_ptr)), documents,
        key_heads, tiles, section, band, scale, cap, q_layout, key_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * heads, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    q_atom: cute.CopyAtom, k_atom: cute.CopyAtom, v_atom: cute.CopyAtom,
    q_tiles: cute.Tensor, k_tiles: cute.Tensor, v_tiles: cute.Tensor,
    out: cute.Tensor, lse: cute.Tensor, starts, documents,
    key_heads, tiles, section, band, scale, cap,
    q_layout: cute.ComposedLayout, key_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, values_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """out (T, E, H, 1) and lse (T, H, 1) of 64 * groups rows of one head of one document.

    starts: of the documents' rows and keys. band: by place, as `places.Tiling` has it.
    Programs behind the last tile end at once. `scale` must be positive, as in `cute.forward`.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    _, _, heads, _ = out.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    nth, head = tile_and_head(number, tiles, heads, section, cutlass.min)
    key_head = head // (heads // key_heads)

    memory = SmemAllocator()
    told = new_place(memory)
    queries = new_pipe(memory, dtype, q_layout)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, key_layout)
    if warp == 4 * config.groups:
        find(told, nth, starts, documents, Tiling(config.own, band[0], False))
    if warp == 0:
        for atom in (q_atom, k_atom, v_atom):
            cpasync.prefetch_descriptor(atom)
        with arch.elect_one():
            for pipe in (queries, keys, values):
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
                q_load = load_from(q_atom, q_tiles[None, None, head, None, None], of_rows, queries)
                order(q_load, place.tile, queries, 0)
                if visit.where[2] + visit.where[3] > 0:
                    loads = [
                        load_from(atom, matrix[None, None, key_head, None, None], of_keys, pipe)
                        for atom, matrix, pipe in (
                            (k_atom, k_tiles, keys), (v_atom, v_tiles, values)
                        )
                    ]  # fmt: skip
                    bring_pairs(loads, (keys, values), visit.where, 0)
        else:
            arch.setmaxregister_increase(more)
            of_head = part(out[None, None, head, 0], place.first_row)
            consume(
                (queries, keys, values), (scores_mma, values_mma),
                (of_head, of_head, part(lse[None, head, 0], place.first_row)),
                (first_row, place.rows), visit, (scale, cap), build,
            )  # fmt: skip
