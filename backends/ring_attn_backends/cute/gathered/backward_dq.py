"""The backward kernel for dq from the keys of many ranks: as `gathered.forward` walks them."""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, Int32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute import row_gradients
from ring_attn_backends.cute.gathered.sending import send_visits
from ring_attn_backends.cute.gathered.visits import tile_of, visit_of
from ring_attn_backends.cute.gathered.waiting import lost
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
from ring_attn_backends.cute.pipes import begin, bring_abreast, load_of, new_pipe, order
from ring_attn_backends.cute.programs import tile_and_head
from ring_attn_backends.cute.registers import deliver


@cute.jit
def backward_dq(
    q_ptr: cute.Pointer, dout_ptr: cute.Pointer, own_k_ptr: cute.Pointer, own_v_ptr: cute.Pointer,
    landed_k_ptr: cute.Pointer, landed_v_ptr: cute.Pointer,
    lse_ptr: cute.Pointer, delta_ptr: cute.Pointer, dq_ptr: cute.Pointer,
    tiles_ptr: cute.Pointer, entries_ptr: cute.Pointer, words_ptr: cute.Pointer,
    q_strides, dout_strides, own_k_strides, own_v_strides, landed_k_strides, landed_v_strides,
    lse_strides, delta_strides, dq_strides, sizes,
    scale: Float32, cap: Float32, gradient: Float32,
    stream: driver.CUstream, build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every row tile and head, as `gradients.dq_call` tells it.

    Keys and values have all heads of all batch entries in one.
    """
    batch, M, heads, key_heads, section, tiles, head_groups = sizes
    config = build.config
    own, block, stages = config.own, config.block, config.stages
    width, width_v = config.width, config.width_v
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    dout = tokens(dout_ptr, (M, width_v, heads, batch), dout_strides, 8)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    delta = numbers(delta_ptr, (M, heads, batch), delta_strides)
    dq = tokens(dq_ptr, (M, width, heads, batch), dq_strides, 2)
    dtype = q.element_type
    row_layout = swizzled(dtype, own, width, 1)
    dout_layout = swizzled(dtype, own, width_v, 1)
    key_layout = swizzled(dtype, block, width, stages)
    value_layout = swizzled(dtype, block, width_v, stages)
    keys, values = (width, key_layout), (width_v, value_layout)
    areas = (
        (own_k_ptr, own_k_strides, keys), (own_v_ptr, own_v_strides, values),
        (landed_k_ptr, landed_k_strides, keys), (landed_v_ptr, landed_v_strides, values),
    )  # fmt: skip
    of_keys = [
        by_tma(ragged(pointer, (columns, key_heads * batch), strides), layout, block)
        for pointer, strides, (columns, layout) in areas
    ]
    of_rows = [by_tma(q, row_layout, own), by_tma(dout, dout_layout, own)]
    program(
        [atom for atom, _ in (*of_rows, *of_keys)], [matrix for _, matrix in (*of_rows, *of_keys)],
        lse, delta, dq, (table(tiles_ptr), table(entries_ptr), table(words_ptr)),
        tiles, section, key_heads, head_groups, scale, cap, gradient,
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
    atoms, matrices, lse: cute.Tensor, delta: cute.Tensor, dq: cute.Tensor, tables,
    tiles, section, key_heads, head_groups, scale, cap, gradient,
    row_layout: cute.ComposedLayout, dout_layout: cute.ComposedLayout,
    key_layout: cute.ComposedLayout, value_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, sums_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """dq (M, D, H, B) of 64 * groups rows of one head, as far as their line goes.

    tables: tiles, entries and words, the last as in `tensors.Gathering`.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    tile_table, entries, words = tables
    _, _, heads, batch = dq.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    tile, head = tile_and_head(number, tiles, heads * batch, section, cutlass.min)
    key_head = head // (heads // key_heads)  # of all batch entries
    head_group = key_head // (key_heads * batch // head_groups)
    entry, head = head // heads, head % heads
    rows, span = tile_of(tile_table, tile)  # the heaviest first

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
            named = list(zip(atoms, matrices, strict=True))
            for (atom, matrix), pipe in zip(named[:2], pipes[:2], strict=True):
                from_row = cute.domain_offset((rows[0], 0), matrix[None, None, head, entry])
                order(load_of(atom, from_row, pipe), 0, pipe, 0)
            send_visits(
                named[2:4], named[4:6], (keys, values), (entries, words), span,
                (key_head, head_group, head_groups), bring_abreast,
            )  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        _gather(
            pipes, (scores_mma, sums_mma), (lse[None, head, entry], delta[None, head, entry]),
            dq[None, None, head, entry], rows, (entries, words), span, (scale, cap, gradient),
            build,
        )  # fmt: skip


@cute.jit
def _gather(
    pipes, products, vectors, dq, rows, tables, span, factors, build: cutlass.Constexpr
):  # fmt: skip
    """dq of a warpgroup's 64 rows."""
    entries, words = tables
    held, given = row_gradients.at_work(pipes, products, rows[0], factors, build)
    row_gradients.await_rows(held, given, pipes, vectors, rows[1])
    walk(held, given, entries, span)
    deliver(held.dq, dq, given.rows, rows[1], given.lane, factors[2] + lost(words), False)


@cute.jit
def walk(held, given, entries, span):
    """All key tiles of the entries; there may be none."""
    before = Int32(0)
    for entry in cutlass.range(span[0], span[1], unroll=1):
        visit = visit_of(entries, entry)
        row_gradients.steps(held, given, visit, before)
        before += visit.where[2] + visit.where[3]
    warpgroup.wait_group(0)
