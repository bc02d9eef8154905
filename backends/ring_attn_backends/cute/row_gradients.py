"""What a warpgroup does with the key tiles that come: dq of its 64 rows (Dao 2023, algorithm 2)."""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

from typing import Any, NamedTuple

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import warpgroup

from ring_attn_backends.cute import lanes, online, slopes
from ring_attn_backends.cute.operands import multiply, transposed
from ring_attn_backends.cute.pipes import receive, release
from ring_attn_backends.cute.programs import nth, row_of
from ring_attn_backends.cute.registers import deliver, read, rounded
from ring_attn_backends.cute.table import WARPGROUP


class Held(NamedTuple):
    """A thread's registers: scores and what comes of dout and v; gradients of scores as the tensor
    cores take them; the sums; of two rows what scores begin at, and delta."""

    s: Any
    dp: Any
    ds: Any
    dq: Any
    starts: Any
    deltas: Any


class Given(NamedTuple):
    """What a thread works with: where it is, what is multiplied, and the launch's factors.

    k_columns: of a slot, columns x keys.
    """

    lane: Any
    rows: Any
    q: Any
    dout: Any
    k: Any
    v: Any
    k_columns: Any
    keys: Any
    values: Any
    scores_mma: Any
    sums_mma: Any
    factors: Any
    build: Any


@cute.jit
def gather(pipes, products, vectors, dq, rows, visit, factors, build: cutlass.Constexpr):
    """dq of a warpgroup's 64 rows; all as `backward_dq.program` has them.

    rows: the program's first, and the one that is behind the last.
    """
    first_row, M = rows
    held, given = at_work(pipes, products, first_row, factors, build)
    await_rows(held, given, pipes, vectors, M)
    walk(held, given, visit)
    deliver(held.dq, dq, given.rows, M, given.lane, factors[2], build.carried)


def at_work(pipes, products, first_row, factors, build):
    """A thread's registers, in which nothing is summed yet, and what it works with."""
    queries, douts, keys, values = pipes
    scores_mma, sums_mma = products
    config = build.config
    lane, warp = arch.lane_idx(), arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    s_slice, o_slice = (mma.get_slice(part * WARPGROUP) for mma in (scores_mma, sums_mma))
    q, dout = (
        scores_mma.make_fragment_A(s_slice.partition_A(x.slots))[None, None, None, 0]
        for x in (queries, douts)
    )
    k, v = (scores_mma.make_fragment_B(s_slice.partition_B(x.slots)) for x in (keys, values))
    k_columns = sums_mma.make_fragment_B(o_slice.partition_B(transposed(keys.slots)))
    given = Given(
        lane, [first_row + 64 * part + row_of(lane, warp % 4, half) for half in (0, 1)],
        q, dout, k, v, k_columns, keys, values, scores_mma, sums_mma, factors, build,
    )  # fmt: skip
    own, block, width = config.own, config.block, config.width
    tile = s_slice.partition_shape_C((own, block))
    held = Held(
        cute.make_rmem_tensor(tile, Float32),
        cute.make_rmem_tensor(tile, Float32),
        cute.make_rmem_tensor(o_slice.partition_shape_A((own, block)), keys.slots.element_type),
        cute.make_rmem_tensor(o_slice.partition_shape_C((own, width)), Float32),
        cute.make_rmem_tensor(2, Float32),
        cute.make_rmem_tensor(2, Float32),
    )
    held.dq.fill(0.0)
    return held, given


@cute.jit
def await_rows(held, given, pipes, vectors, stop):
    """Reads lse and delta of rows before `stop`, then waits for the rows themselves."""
    lse, delta = vectors
    for half in cutlass.range_constexpr(2):
        row = given.rows[half]
        held.starts[half] = Float32(0.0)
        held.deltas[half] = Float32(0.0)
        if row < stop:
            held.starts[half] = slopes.start(lse[row], lanes)
            held.deltas[half] = delta[row]
    queries, douts, _, _ = pipes
    arch.mbarrier_wait(queries.full, 0)
    arch.mbarrier_wait(douts.full, 0)


@cute.jit
def walk(held, given, visit):
    """All key tiles: those that need a mask, then the whole ones."""
    steps(held, given, visit, 0)
    warpgroup.wait_group(0)


@cute.jit
def steps(held, given, visit, before):
    """Those of a visit; before: how many tiles are of earlier visits."""
    where = visit.where
    edges, count = where[3], where[2] + where[3]
    for i in cutlass.range(edges, unroll=1):
        _step(before + i, held, given, nth(i, where), visit, edge=True)
    for i in cutlass.range(edges, count, unroll=1):
        _step(before + i, held, given, 0, visit, edge=False)


def _step(i, held, given, tile, visit, *, edge):
    """Adds the i-th tile's share, in three products."""
    slot = receive(given.keys, i)
    multiply(given.scores_mma, held.s, given.q, given.k[None, None, None, slot], fresh=True)
    v_slot = receive(given.values, i)
    multiply(given.scores_mma, held.dp, given.dout, given.v[None, None, None, v_slot], fresh=True)
    warpgroup.wait_group(1)
    if given.build.config.ahead:
        release(given.keys, i - 1, given.lane, i > 0)
    factors = _factors(held, given, tile, visit, edge=edge)
    warpgroup.wait_group(0)
    release(given.values, i, given.lane)
    deltas, dp = read(held.deltas), read(held.dp)
    rounded(held.ds, [x * (dp[j] - deltas[j // 2 % 2]) for j, x in enumerate(factors)])
    multiply(given.sums_mma, held.dq, held.ds, given.k_columns[None, None, None, slot], fresh=False)
    if not given.build.config.ahead:
        warpgroup.wait_group(0)
        release(given.keys, i, given.lane)


def _factors(held, given, tile, visit, *, edge):
    """What `dp - delta` is to be multiplied by: weights of the products in `s`, and slopes."""
    scale, cap, _ = given.factors
    scores, starts = read(held.s), read(held.starts)
    each = [starts[i // 2 % 2] for i in range(len(scores))]
    if given.build.capped:
        factors = slopes.capped_weights(scores, each, scale, cap, lanes)
        factors = [x * y for x, y in zip(scores, factors, strict=True)]
    else:
        slopes.weights(scores, each, scale, lanes)
        factors = scores
    if edge:
        first_key = tile * given.build.config.block
        length, low, high, _ = visit
        online.masked(
            factors, given.lane, given.rows, first_key, length, low, high, lanes, hidden=0.0
        )
    return factors
