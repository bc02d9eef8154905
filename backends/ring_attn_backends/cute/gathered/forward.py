"""The forward kernel for keys of many ranks, in one launch that waits for them piece by piece.

As `forward`, but that a row tile walks a list of visits (`shared.worklist`): the own keys first,
then each piece that comes from another rank as soon as it has landed. It is the producer's warp
that waits, so the consumers go on with the tiles that are in the pipe.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

import cutlass
from cuda.bindings import driver
from cutlass import Float32, Int32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from ring_attn_backends.cute import consumer
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
from ring_attn_backends.cute.pipes import begin, bring_pairs, load_of, new_pipe, order
from ring_attn_backends.cute.programs import tile_and_head


@cute.jit
def forward(
    q_ptr: cute.Pointer, own_k_ptr: cute.Pointer, own_v_ptr: cute.Pointer,
    landed_k_ptr: cute.Pointer, landed_v_ptr: cute.Pointer,
    out_ptr: cute.Pointer, lse_ptr: cute.Pointer,
    tiles_ptr: cute.Pointer, entries_ptr: cute.Pointer, words_ptr: cute.Pointer,
    q_strides, own_k_strides, own_v_strides, landed_k_strides, landed_v_strides,
    out_strides, lse_strides,
    sizes, scale: Float32, cap: Float32, stream: driver.CUstream,
    build: cutlass.Constexpr,
):  # fmt: skip
    """Launches `program` for every row tile and head; the arguments are those of `launch`.

    Keys and values have all heads of all batch entries in one.
    """
    batch, M, heads, key_heads, section, tiles, head_groups = sizes
    config = build.config
    own, block, stages = config.own, config.block, config.stages
    width, width_v = config.width, config.width_v
    q = tokens(q_ptr, (M, width, heads, batch), q_strides, 8)
    out = tokens(out_ptr, (M, width_v, heads, batch), out_strides, 2)
    lse = numbers(lse_ptr, (M, heads, batch), lse_strides)
    dtype = q.element_type
    q_layout = swizzled(dtype, own, width, 1)
    key_layout = swizzled(dtype, block, width, stages)
    value_layout = swizzled(dtype, block, width_v, stages)
    keys, values = (width, key_layout), (width_v, value_layout)
    areas = (
        (own_k_ptr, own_k_strides, keys), (own_v_ptr, own_v_strides, values),
        (landed_k_ptr, landed_k_strides, keys), (landed_v_ptr, landed_v_strides, values),
    )  # fmt: skip
    own_k, own_v, landed_k, landed_v = (
        by_tma(ragged(pointer, (columns, key_heads * batch), strides), layout, block)
        for pointer, strides, (columns, layout) in areas
    )
    program(
        *by_tma(q, q_layout, own), *own_k, *own_v, *landed_k, *landed_v, out, lse,
        table(tiles_ptr), table(entries_ptr), table(words_ptr),
        tiles, section, key_heads, head_groups, scale, cap, q_layout, key_layout,
        value_layout,
        product(dtype, config.groups, block, K_MAJOR, SMEM),
        product(dtype, config.groups, width_v, MN_MAJOR, RMEM),
        build,
    ).launch(
        grid=(tiles * heads * batch, 1, 1), block=(config.threads, 1, 1), stream=stream,
        min_blocks_per_mp=1,
    )  # fmt: skip


@cute.kernel
def program(
    q_atom: cute.CopyAtom, q_rows: cute.Tensor,
    own_k_atom: cute.CopyAtom, own_k: cute.Tensor, own_v_atom: cute.CopyAtom, own_v: cute.Tensor,
    landed_k_atom: cute.CopyAtom, landed_k: cute.Tensor,
    landed_v_atom: cute.CopyAtom, landed_v: cute.Tensor,
    out: cute.Tensor, lse: cute.Tensor,
    tile_table: cute.Tensor, entries: cute.Tensor, words: cute.Tensor,
    tiles, section, key_heads, head_groups, scale, cap,
    q_layout: cute.ComposedLayout, key_layout: cute.ComposedLayout,
    value_layout: cute.ComposedLayout,
    scores_mma: cute.TiledMma, values_mma: cute.TiledMma, build: cutlass.Constexpr,
):  # fmt: skip
    """out (M, E, H, B) and lse (M, H, B) of 64 * groups rows of one head, as far as its line goes.

    words: as in `tensors.Gathering`. `scale` must be positive, as in `cute.forward`.
    """
    config, dtype = build.config, scores_mma.op.a_dtype
    _, _, heads, batch = out.shape
    number, _, _ = arch.block_idx()
    warp = arch.make_warp_uniform(arch.warp_idx())
    tile, head = tile_and_head(number, tiles, heads * batch, section, cutlass.min)
    key_head = head // (heads // key_heads)  # of all batch entries
    head_group = key_head // (key_heads * batch // head_groups)
    entry, head = head // heads, head % heads
    rows, span = tile_of(tile_table, tile)  # the heaviest first

    memory = SmemAllocator()
    queries = new_pipe(memory, dtype, q_layout)
    keys = new_pipe(memory, dtype, key_layout)
    values = new_pipe(memory, dtype, value_layout)
    if warp == 0:
        for atom in (q_atom, own_k_atom, own_v_atom, landed_k_atom, landed_v_atom):
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
            from_row = cute.domain_offset((rows[0], 0), q_rows[None, None, head, entry])
            order(load_of(q_atom, from_row, queries), 0, queries, 0)
            send_visits(
                ((own_k_atom, own_k), (own_v_atom, own_v)),
                ((landed_k_atom, landed_k), (landed_v_atom, landed_v)),
                (keys, values), (entries, words), span, (key_head, head_group, head_groups),
                bring_pairs,
            )  # fmt: skip
    else:
        arch.setmaxregister_increase(more)
        _consume(
            (queries, keys, values), (scores_mma, values_mma),
            (out[None, None, head, entry], lse[None, head, entry]),
            rows, (entries, words), span, (scale, cap), build,
        )  # fmt: skip


@cute.jit
def _consume(pipes, products, results, rows, tables, span, factors, build: cutlass.Constexpr):
    """out and lse of a warpgroup's 64 rows."""
    out, lse = results
    entries, words = tables
    held, given = consumer.at_work(pipes, products, rows[0], factors, build)
    consumer.await_queries(pipes[0], given)
    if span[0] < span[1]:
        walk(held, given, entries, span)
    consumer.hand_over(held, given, out, lse, rows[1], lost(words))


@cute.jit
def walk(held, given, entries, span):
    """All tiles of the entries, one at least."""
    begin, end = span
    consumer.first_step(held, given, visit_of(entries, begin))
    before = Int32(0)
    for entry in cutlass.range(begin, end, unroll=1):
        visit = visit_of(entries, entry)
        # of all tiles the first is done
        consumer.steps(held, given, visit, before, Int32(entry == begin))
        before += visit.where[2] + visit.where[3]
    consumer.last_step(before, held, given)
