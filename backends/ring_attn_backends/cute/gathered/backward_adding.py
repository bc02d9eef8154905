"""The backward kernel for dk, dv and dq over the keys of many ranks, for which it waits.

As `gathered.backward_dkdv`, whose lines it has, and as `backward_adding`, which adds to dq. A tile
of keys that is cut off has edges alone (`parts`): keys behind the end must not have weights.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, Int32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute import key_gradients, shares
from ring_attn_backends.cute.gathered.sending import send_keys, send_rows, send_vectors, take_rows
from ring_attn_backends.cute.gathered.visits import piece_of, tile_of, visit_of
from ring_attn_backends.cute.gathered.waiting import lost
from ring_attn_backends.cute.operands import (
    FAR,
    K_MAJOR,
    MN_MAJOR,
    RMEM,
    SMEM,
    adding_by_tma,
    by_tma,
    numbers,
    product,
    ragged,
    split_product,
    swizzled,
    table,
    tokens,
)
from ring_attn_backends.cute.pipes import begin, new_pipe, new_vectors
from ring_attn_backends.cute.programs import tile_and_head
from ring_attn_backends.cute.row_tiles import lines


@cute.jit
def backward_adding(
    q_ptr: cute.Pointer, dout_ptr: cute.Pointer, own_k_ptr: cute.Pointer, own_v_ptr: cute.Pointer,
    landed_k_ptr: cute.Pointer, landed_v_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dq_ptr: cute.Pointer,
    own_dk_ptr: cute.Pointer, own_dv_ptr: cute.Pointer,
    landed_dk_ptr: cute.Pointer, landed_dv_ptr: cute.Pointer,
    tiles_ptr: cute.Pointer, entries_ptr: cute.Pointer, words_ptr: cute.Pointer,
    q_strides, dout_strides, own_k_strides, own_v_strides, landed_k_strides, landed_v_strides,
    lse_strides, delta_strides, dq_strides, own_dk_strides, own_dv_strides, landed_dk_strides,
    landed_dv_strides, sizes, scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every key tile and key head, as `gradients.adding_call` tells it.

    Keys and values have all heads of all batch entries in one, their gradients have not.
    """
    batch, M, heads, key_heads, section, tiles, head_groups = sizes
    config = build.config
    own, block, width, stages = config.own, config.block, config.width, config.stages
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    dout = tokens(dout_ptr, (M, width, heads, batch), dout_strides, 8)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    delta = numbers(delta_ptr, (M, heads, batch), delta_strides)
    dq = tokens(dq_ptr, (M, width, heads, batch), dq_strides, 4)
    results = [
        tokens(pointer, (FAR, width, key_heads, batch), strides, 2)
        for pointer, strides in (
            (own_dk_ptr, own_dk_strides), (own_dv_ptr, own_dv_strides),
            (landed_dk_ptr, landed_dk_strides), (landed_dv_ptr, landed_dv_strides),
        )
    ]  # fmt: skip
    dtype = q.element_type
    # of which a warpgroup reads its part of the columns, for dq
    key_layout = swizzled(dtype, own, width, 1, min(64, width // config.split[1]))
    value_layout = swizzled(dtype, own, width, 1)
    row_layout = swizzled(dtype, block, width, stages)
    shown_layout = swizzled(dtype, own, block, config.shown)
    staged_layout = swizzled(Float32, block, width, 1)
    areas = (
        (own_k_ptr, own_k_strides, key_layout), (own_v_ptr, own_v_strides, value_layout),
        (landed_k_ptr, landed_k_strides, key_layout),
        (landed_v_ptr, landed_v_strides, value_layout),
    )  # fmt: skip
    of_keys = [
        by_tma(ragged(pointer, (width, key_heads * batch), strides), layout, own)
        for pointer, strides, layout in areas
    ]
    of_rows = [by_tma(x, row_layout, block) for x in (q, dout)]
    named = (*of_rows, *of_keys, adding_by_tma(dq, staged_layout, block))
    program(
        [atom for atom, _ in named], [matrix for _, matrix in named],
        lse, delta, results, (table(tiles_ptr), table(entries_ptr), table(words_ptr)),
        tiles, section, head_groups, scale, cap, gradient,
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
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, results, tables,
    tiles, section, head_groups, scale, cap, gradient,
    key_layout: cute.ComposedLayout, value_layout: cute.ComposedLayout,
    row_layout: cute.ComposedLayout, shown_layout: cute.ComposedLayout,
    staged_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, dq_mma: cute.TiledMma,
    build: cutlass.Constexpr,
):  # fmt: skip
    """dk and dv of 64 * groups keys of one key head, as far as their line goes; their share of dq.

    results: of own keys dk and dv, then of landed ones, (tokens, D, G, B). tables: tiles, entries
    and words, the last as in `tensors.Gathering`. Keys that no row sees get zeros.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    tile_table, entries, words = tables
    _, _, key_heads, batch = results[0].shape
    M, heads, _ = lse.shape
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
            named = list(zip(atoms, matrices, strict=True))
            send_keys(
                named[2:4], named[4:6], (keys, values), words, piece,
                (own_keys[0], own_keys[1] - own_keys[0]), (packed_head, head_group, head_groups),
            )  # fmt: skip
            rows = [(atom, matrix[None, None, None, entry]) for atom, matrix in named[:2]]
            send_rows(rows, (queries, douts), entries, span, of_head)
        if warp == 4 * config.groups + 1:
            send_vectors(
                (lse[None, None, entry], delta[None, None, entry]), vectors, entries, span, of_head,
                scale, build,
            )  # fmt: skip
        if warp == 4 * config.groups + 2:
            take_rows((atoms[6], matrices[6][None, None, None, entry]), staged, entries, span,
                      of_head)  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        _gather(
            (keys, values, queries, douts, vectors, shown, staged),
            (scores_mma, sums_mma, dq_mma), [x[None, None, key_head, entry] for x in results],
            own_keys, M, piece, (entries, words), span, each, (scale, cap, gradient), build,
        )  # fmt: skip


@cute.jit
def _gather(
    pipes, products, results, keys, M, piece, tables, span, each, factors,
    build: cutlass.Constexpr,
):  # fmt: skip
    """dk and dv of a warpgroup's 64 keys, to the place of the piece that they are of."""
    entries, words = tables
    scale, cap, gradient = factors
    key_gradients.await_keys(pipes)
    never = lost(words)  # of the piece that was waited for, or of any
    told = scale, cap, gradient + never
    held, given = key_gradients.at_work(pipes[:5], products[:2], keys[0], told, build)
    given = given._replace(keys=[shares.behind(key, keys[1], M) for key in given.keys])
    walk(held, given, shares.at_work(pipes[0], pipes[5:], products[2], build), entries, span, each)
    never = lost(words)
    multiples = gradient + never, Float32(1.0) + never
    if piece == 0:
        key_gradients.hand_over(held, given, results[:2], keys[1], multiples, False)
    else:
        key_gradients.hand_over(held, given, results[2:], keys[1], multiples, False)


@cute.jit
def walk(held, given, shared, entries, span, each):
    """All row tiles of the entries, of `each` heads; there may be none."""
    begin, end = span
    if begin < end:
        shares.first_step(held, given, shared, visit_of(entries, begin), each)
        before = Int32(0)
        for entry in cutlass.range(begin, end, unroll=1):
            visit = visit_of(entries, entry)
            # of all tiles the first is done
            shares.steps(held, given, shared, visit, before, Int32(entry == begin), each)
            before += each * (visit.where[2] + visit.where[3])
        shares.last_share(before, given, shared)
