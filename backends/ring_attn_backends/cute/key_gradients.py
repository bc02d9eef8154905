"""What a warpgroup does with the row tiles that come: dk and dv of its 64 keys.

Scores are transposed, keys x rows: weights and their gradients leave the tensor cores in the order
in which the next products take them from registers, and see no shared memory (as in Shah et al.
2024, FlashAttention-3, where they do).
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

from typing import Any, NamedTuple

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import warpgroup

from ring_attn_backends.cute import lanes, online, slopes
from ring_attn_backends.cute.operands import MN_MAJOR, RMEM, multiply, product, transposed
from ring_attn_backends.cute.pipes import receive, release, release_loaded
from ring_attn_backends.cute.programs import column_of, nth_of_heads, row_of
from ring_attn_backends.cute.registers import deliver, flat, pair_of, read, rounded
from ring_attn_backends.cute.table import WARPGROUP


class Held(NamedTuple):
    """A thread's registers: scores and what comes of dout and v; weights and gradients of scores
    as the tensor cores take them; and the sums."""

    s: Any
    dp: Any
    p: Any
    ds: Any
    dk: Any
    dv: Any


class Given(NamedTuple):
    """What a thread works with: where it is, what is multiplied, and the launch's factors.

    q, dout: of a slot, rows x columns; q_columns, dout_columns: the same, columns x rows.
    sums_mma, values_mma: of dk and of dv.
    """

    lane: Any
    keys: Any
    k: Any
    v: Any
    q: Any
    dout: Any
    q_columns: Any
    dout_columns: Any
    queries: Any
    douts: Any
    vectors: Any
    scores_mma: Any
    sums_mma: Any
    values_mma: Any
    factors: Any
    build: Any


@cute.jit
def gather(pipes, products, results, keys, visit, each, factors, build: cutlass.Constexpr):
    """dk and dv of a warpgroup's 64 keys; all as `backward_dkdv.program` has them.

    keys: the program's first, and the one that is behind the last.
    """
    first_key, N = keys
    held, given = at_work(pipes, products, first_key, factors, build)
    await_keys(pipes)
    walk(held, given, visit, each)
    hand_over(held, given, results, N, (factors[2], Float32(1.0)), build.carried)


def at_work(pipes, products, first_key, factors, build):
    """A thread's registers, in which nothing is summed yet, and what it works with."""
    keys, values, queries, douts, vectors = pipes
    scores_mma, sums_mma = products
    config = build.config
    lane, warp = arch.lane_idx(), arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    dtype = queries.slots.element_type
    values_mma = product(dtype, config.groups, config.width_v, MN_MAJOR, RMEM)
    s_slice, o_slice, v_slice = (
        mma.get_slice(part * WARPGROUP) for mma in (scores_mma, sums_mma, values_mma)
    )
    k, v = (
        scores_mma.make_fragment_A(s_slice.partition_A(x.slots))[None, None, None, 0]
        for x in (keys, values)
    )
    q, dout = (scores_mma.make_fragment_B(s_slice.partition_B(x.slots)) for x in (queries, douts))
    q_columns, dout_columns = (
        mma.make_fragment_B(of_sums.partition_B(transposed(x.slots)))
        for mma, of_sums, x in ((sums_mma, o_slice, queries), (values_mma, v_slice, douts))
    )
    given = Given(
        lane, [first_key + 64 * part + row_of(lane, warp % 4, half) for half in (0, 1)],
        k, v, q, dout, q_columns, dout_columns, queries, douts, vectors,
        scores_mma, sums_mma, values_mma, factors, build,
    )  # fmt: skip
    own, block = config.own, config.block
    tile, weights = s_slice.partition_shape_C((own, block)), o_slice.partition_shape_A((own, block))
    held = Held(
        cute.make_rmem_tensor(tile, Float32),
        cute.make_rmem_tensor(tile, Float32),
        cute.make_rmem_tensor(weights, dtype),
        cute.make_rmem_tensor(weights, dtype),
        cute.make_rmem_tensor(o_slice.partition_shape_C((own, config.width)), Float32),
        cute.make_rmem_tensor(v_slice.partition_shape_C((own, config.width_v)), Float32),
    )
    held.dk.fill(0.0)
    held.dv.fill(0.0)
    return held, given


def await_keys(pipes):
    """The program's keys and values, of which there is one tile."""
    keys, values, *_ = pipes
    arch.mbarrier_wait(keys.full, 0)
    arch.mbarrier_wait(values.full, 0)


def hand_over(held, given, results, stop, multiples, add):
    """Writes dk and dv of keys before `stop`, or adds them, each times its factor."""
    for sums, result, factor in zip((held.dk, held.dv), results, multiples, strict=True):
        deliver(sums, result, given.keys, stop, given.lane, factor, add)


@cute.jit
def walk(held, given, visit, each):
    """All row tiles of `each` heads: those that need a mask, then the whole ones."""
    steps(held, given, visit, 0, each)
    warpgroup.wait_group(0)


@cute.jit
def steps(held, given, visit, before, each):
    """Those of a visit; before: how many tiles are of earlier visits."""
    where = visit.where
    edges, count = each * where[3], each * (where[2] + where[3])
    for i in cutlass.range(edges, unroll=1):
        _, tile = nth_of_heads(i, each, where)
        _step(before + i, held, given, tile, visit, edge=True)
    for i in cutlass.range(edges, count, unroll=1):
        _step(before + i, held, given, 0, visit, edge=False)


def _step(i, held, given, tile, visit, *, edge):
    """Adds the i-th tile's share, in four products, of which two run beside arithmetic."""
    slot = differentiate(i, held, given, tile, visit, edge=edge)
    multiply(given.sums_mma, held.dk, held.ds, given.q_columns[None, None, None, slot], fresh=False)
    warpgroup.wait_group(1)
    release(given.douts, i, given.lane)
    if not given.build.config.ahead:
        warpgroup.wait_group(0)
        release(given.queries, i, given.lane)


def differentiate(i, held, given, tile, visit, *, edge):
    """Adds the i-th tile's share to dv, and leaves gradients of scores; returns the slot of q.

    The last of its three products may still run.
    """
    capped = given.build.capped
    vector = receive(given.vectors, i)
    if not capped:
        _begin(held.s, given, 0, vector)
    _begin(held.dp, given, 1, vector)
    slot = receive(given.queries, i)
    multiply(given.scores_mma, held.s, given.k, given.q[None, None, None, slot], fresh=capped)
    d_slot = receive(given.douts, i)
    multiply(given.scores_mma, held.dp, given.v, given.dout[None, None, None, d_slot], fresh=False)
    warpgroup.wait_group(1)
    if given.build.config.ahead:
        release(given.queries, i - 1, given.lane, i > 0)
    weights, factors = _weigh(held, given, tile, visit, vector, edge=edge)
    rounded(held.p, weights)
    multiply(
        given.values_mma, held.dv, held.p, given.dout_columns[None, None, None, d_slot], fresh=False
    )
    warpgroup.wait_group(1)
    release_loaded(given.vectors, i, given.lane)
    rounded(held.ds, [x * y for x, y in zip(factors, read(held.dp), strict=True)])
    return slot


def _weigh(held, given, tile, visit, vector, *, edge):
    """The weights of the products in `s`, and what their `dp` is to be multiplied by."""
    scale, cap, _ = given.factors
    scores = read(held.s)
    if given.build.capped:
        starts = read(_rows_of(held.s, given, 0, vector))
        factors = slopes.capped_weights(scores, starts, scale, cap, lanes)
    else:
        slopes.weights(scores, None, scale, lanes)
        factors = None
    if edge:
        first_row = tile * given.build.config.block
        length, low, high, _ = visit
        online.masked(
            scores, given.lane, given.keys, first_row, length, -high, -low, lanes, hidden=0.0
        )
    if factors is None:
        return scores, scores
    return scores, [x * y for x, y in zip(scores, factors, strict=True)]


def _begin(tensor, given, vector, slot):
    """Into a tile's registers: of each number's row the one of a vector's numbers."""
    line = flat(tensor)
    numbers = given.vectors.slots[None, vector, slot]
    for i in range(0, cute.size(tensor), 4):
        pair = pair_of(numbers, column_of(given.lane, i)).load()
        for half in (0, 2):
            line[i + half] = pair[0]
            line[i + half + 1] = pair[1]


def _rows_of(tensor, given, vector, slot):
    """`_begin` into registers of their own."""
    numbers = cute.make_rmem_tensor(cute.size(tensor), Float32)
    _begin(numbers, given, vector, slot)
    return numbers
