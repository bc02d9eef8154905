"""What the producers of dk and dv bring of rows: tiles, and what lse and delta make of each.

And what a third warp takes away where dq is added to.

A program's row tiles are those of all query heads that read its keys, in one order for both.
"""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch

from ring_attn_backends.cute import lanes, slopes
from ring_attn_backends.cute.pipes import add, bring, load_at, receive, release_loaded, tell
from ring_attn_backends.cute.programs import nth_of_heads


@cute.jit
def bring_rows(loads, pipes, heads, where, before):
    """Brings row tiles of all heads in the order in which consumers ask for them.

    heads: the first, and how many. before: how many tiles the pipes have carried already.
    """
    (q_load, dout_load), (queries, douts), (first_head, each) = loads, pipes, heads
    for i in cutlass.range(each * (where[2] + where[3]), unroll=1):
        head, tile = nth_of_heads(i, each, where)
        bring(load_at(q_load, first_head + head), tile, queries, before + i)
        bring(load_at(dout_load, first_head + head), tile, douts, before + i)


@cute.jit
def add_rows(load, pipe, heads, where, before):
    """Has TMA add what consumers hand on of each row tile, in the order of `bring_rows`.

    Returns when all of it is added.
    """
    first_head, each = heads
    lane = arch.lane_idx()
    for i in cutlass.range(each * (where[2] + where[3]), unroll=1):
        head, tile = nth_of_heads(i, each, where)
        add(load_at(load, first_head + head), tile, pipe, receive(pipe, before + i))
        release_loaded(pipe, before + i, lane)
    arch.cp_async_bulk_wait_group(0)


@cute.jit
def tell_rows(matrices, vectors, rows, heads, where, before, scale, build: cutlass.Constexpr):
    """Tells consumers what products begin at, row by row: -lse as a product, and -delta.

    With a softcap -lse in base 2, which is added later. Rows that see no key, or are not there,
    get -inf, and weights of 0. rows: the first, from which tiles are counted, and how many.
    """
    lse, delta = matrices
    first, length = rows
    first_head, each = heads
    lane = arch.lane_idx()
    block = build.config.block
    parts = lines(block) // arch.WARP_SIZE
    unscaled = lanes.reciprocal(scale)
    for i in cutlass.range(each * (where[2] + where[3]), unroll=1):
        head, tile = nth_of_heads(i, each, where)
        starts = cute.make_rmem_tensor(parts, Float32)
        deltas = cute.make_rmem_tensor(parts, Float32)
        starts.fill(-float("inf"))
        deltas.fill(0.0)
        for part in cutlass.range_constexpr(parts):
            row = tile * block + arch.WARP_SIZE * part + lane
            if row < length:
                starts[part] = slopes.start(lse[first + row, first_head + head], lanes)
                deltas[part] = -delta[first + row, first_head + head]
                if cutlass.const_expr(not build.capped):
                    starts[part] = starts[part] * unscaled
        tell(vectors, before + i, (starts, deltas), lane)


def lines(block):
    """Rows that a warp writes for a tile, one by each lane: those beyond the tile are not read."""
    return -(-block // arch.WARP_SIZE) * arch.WARP_SIZE
