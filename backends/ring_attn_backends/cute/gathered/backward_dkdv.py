"""The backward kernel for dk, dv of the keys of many ranks, in one launch that waits for them.

As `backward_dkdv`, but that a key tile walks a list of visits of rows (`shared.worklist`), and its
producer first waits for the tile's own piece, if that comes from another rank. Rows are all there.
Gradients of own keys and of landed ones have places of their own: the one stays, the other goes
home.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, Int32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute.backward_dkdv import gradients_of, there
from ring_attn_backends.cute.gathered.sending import send_keys, send_rows, send_vectors
from ring_attn_backends.cute.gathered.visits import piece_of, tile_of, visit_of
from ring_attn_backends.cute.gathered.waiting import lost
from ring_attn_backends.cute.operands import (
    FAR,
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
from ring_attn_backends.cute.pipes import begin, new_pipe, new_vectors
from ring_attn_backends.cute.programs import tile_and_head
from ring_attn_backends.cute.row_tiles import lines


@cute.jit
def backward_dkdv(
    q_ptr: cute.Pointer, dout_ptr: cute.Pointer, own_k_ptr: cute.Pointer, own_v_ptr: cute.Pointer,
    landed_k_ptr: cute.Pointer, landed_v_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer,
    own_dk_ptr: cute.Pointer, own_dv_ptr: cute.Pointer,
    landed_dk_ptr: cute.Pointer, landed_dv_ptr: cute.Pointer,
    tiles_ptr: cute.Pointer, entries_ptr: cute.Pointer, words_ptr: cute.Pointer,
    q_strides, dout_strides, own_k_strides, own_v_strides, landed_k_strides, landed_v_strides,
    lse_strides, delta_strides, own_dk_strides, own_dv_strides, landed_dk_strides,
    landed_dv_strides, sizes, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every key tile and key head, as `gradients.dkdv_call` tells it.

    Keys and values have all heads of all batch entries in one, their gradients have not.
    """
    batch, M, heads, key_heads, section, tiles, head_groups = sizes
    config = build.config
    own, block, stages = config.own, config.block, config.stages
    width, width_v = config.width, config.width_v
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    dout = tokens(dout_ptr, (M, width_v, heads, batch), dout_strides, 8)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    delta = numbers(delta_ptr, (M, heads, batch), delta_strides)
    results = [
        tokens(pointer, (FAR, columns, key_heads, batch), strides, 2)
        for pointer, strides, columns in (
            (own_dk_ptr, own_dk_strides, width), (own_dv_ptr, own_dv_strides, width_v),
            (landed_dk_ptr, landed_dk_strides, width), (landed_dv_ptr, landed_dv_strides, width_v),
        )
    ]  # fmt: skip
    dtype = q.element_type
    key_layout = swizzled(dtype, own, width, 1)
    value_layout = swizzled(dtype, own, width_v, 1)
    row_layout = swizzled(dtype, block, width, stages)
    dout_layout = swizzled(dtype, block, width_v, stages)
    of_k, of_v = (width, key_layout), (width_v, value_layout)
    areas = (
        (own_k_ptr, own_k_strides, of_k), (own_v_ptr, own_v_strides, of_v),
        (landed_k_ptr, landed_k_strides, of_k), (landed_v_ptr, landed_v_strides, of_v),
    )  # fmt: skip
    of_keys = [
        by_tma(ragged(pointer, (columns, key_heads * batch), strides), layout, own)
        for pointer, strides, (columns, layout) in areas
    ]
    of_rows = [by_tma(q, row_layout, block), by_tma(dout, dout_layout, block)]
    program(
        [atom for atom, _ in (*of_rows, *of_keys)], [matrix for _, matrix in (*of_rows, *of_keys)],
        lse, delta, results, (table(tiles_ptr), table(entries_ptr), table(words_ptr)),
        tiles, section, head_groups, scale, cap, gradient,
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
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, results, tables,
    tiles, section, head_groups, scale, cap, gradient,
    key_layout: cute.ComposedLayout, value_layout: cute.ComposedLayout,
    row_layout: cute.ComposedLayout, dout_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dk and dv of 64 * groups keys of one key head, as far as their line goes.

    results: of own keys dk and dv, then of landed ones, (tokens, D, G, B) and (tokens, E, G, B).
    tables: tiles, entries and words, the last as in `tensors.Gathering`. Keys that no row sees get
    zeros.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    tile_table, entries, words = tables
    _, _, key_heads, batch = results[0].shape
    _, heads, _ = lse.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    tile, packed_head = tile_and_head(number, tiles, key_heads * batch, section, cutlass.min)
    head_group = packed_head // (key_heads * batch // head_groups)
    entry, key_head = packed_head // key_heads, packed_head % key_heads
    each = heads // key_heads
    of_head = key_head * each, each
    own_keys, span = tile_of(tile_table, tile)
    piece = piece_of(tile_table, tile)

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
            named = list(zip(atoms, matrices, strict=True))
            kept = there(keys, values)
            send_keys(
                named[2 : 2 + len(kept)], named[4 : 4 + len(kept)], kept, words, piece,
                (own_keys[0], own_keys[1] - own_keys[0]), (packed_head, head_group, head_groups),
            )  # fmt: skip
            rows = [(atom, matrix[None, None, None, entry]) for atom, matrix in named[:2]]
            send_rows(rows, (queries, douts), entries, span, of_head)
        if warp == 4 * config.groups + 1:
            send_vectors(
                (lse[None, None, entry], delta[None, None, entry]), vectors, entries, span, of_head,
                scale, build,
            )  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        _gather(
            (keys, values, queries, douts, vectors), (scores_mma, sums_mma),
            [x[None, None, key_head, entry] for x in results],
            own_keys, piece, (entries, words), span, each, (scale, cap, gradient), build,
        )  # fmt: skip


@cute.jit
def _gather(
    pipes, products, results, keys, piece, tables, span, each, factors, build: cutlass.Constexpr
):  # fmt: skip
    """dk and dv of a warpgroup's 64 keys, to the place of the piece that they are of."""
    entries, words = tables
    held, given = gradients_of(build).at_work(pipes, products, keys[0], factors, build)
    gradients_of(build).await_keys(pipes)
    walk(held, given, entries, span, each)
    never = lost(words)
    multiples = factors[2] + never, Float32(1.0) + never
    if piece == 0:
        gradients_of(build).hand_over(held, given, results[:2], keys[1], multiples, False)
    else:
        gradients_of(build).hand_over(held, given, results[2:], keys[1], multiples, False)


@cute.jit
def walk(held, given, entries, span, each):
    """All row tiles of the entries, of `each` heads."""
    before = Int32(0)
    for entry in cutlass.range(span[0], span[1], unroll=1):
        visit = visit_of(entries, entry)
        gradients_of(given.build).steps(held, given, visit, before, each)
        before += each * (visit.where[2] + visit.where[3])
    warpgroup.wait_group(0)
