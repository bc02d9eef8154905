"""What a warpgroup does with the tiles that come: 64 rows' products, softmax and weighted sums.

Its products of queries and keys of tile i run on the tensor cores beside the weights of tile i - 1
times its values, and the softmax of tile i under the latter. Warpgroups take turns at asking for
products, so that the softmax of one runs under the products of another (Shah et al. 2024,
FlashAttention-3, sections 3.1 and 3.2).
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

from typing import Any, NamedTuple

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import warpgroup

from ring_attn_backends.cute import lanes, online
from ring_attn_backends.cute.operands import multiply, transposed
from ring_attn_backends.cute.pipes import receive, release
from ring_attn_backends.cute.programs import column_of, nth, row_of
from ring_attn_backends.cute.registers import flat, pair_at, read, rounded, write
from ring_attn_backends.cute.table import WARPGROUP

FIRST_TURN = 1
"""The named barrier of the first warpgroup's turns; 0 is the whole program's."""


class Held(NamedTuple):
    """A thread's registers: scores or weights of a tile, weights as the tensor cores take them,
    weighted values, and of two rows peak and total (`online`)."""

    s: Any
    p: Any
    o: Any
    peak: Any
    total: Any


class Given(NamedTuple):
    """What a thread works with: where it is, what is multiplied, and the launch's factors."""

    lane: Any
    part: Any
    rows: Any
    q: Any
    k: Any
    v: Any
    keys: Any
    values: Any
    scores_mma: Any
    values_mma: Any
    factors: Any
    build: Any


@cute.jit
def consume(pipes, products, results, rows, visit, factors, build: cutlass.Constexpr):
    """out and lse of a warpgroup's 64 rows; all as `forward.program` has them.

    rows: the program's first, and the one that is behind the last.
    """
    acc, out, lse = results
    first_row, M = rows
    held, given = at_work(pipes, products, first_row, factors, build)
    if cutlass.const_expr(build.carried):
        _take_over(held, given, acc, lse, M)
    await_queries(pipes[0], given)
    if visit.where[2] + visit.where[3] > 0:
        walk(held, given, visit)
    hand_over(held, given, out, lse, M)


def at_work(pipes, products, first_row, factors, build):
    """A thread's registers, in which nothing is summed yet, and what it works with."""
    queries, keys, values = pipes
    scores_mma, values_mma = products
    config = build.config
    lane, warp = arch.lane_idx(), arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    s_slice, o_slice = (mma.get_slice(part * WARPGROUP) for mma in (scores_mma, values_mma))
    given = Given(
        lane, part, [first_row + 64 * part + row_of(lane, warp % 4, half) for half in (0, 1)],
        scores_mma.make_fragment_A(s_slice.partition_A(queries.slots))[None, None, None, 0],
        scores_mma.make_fragment_B(s_slice.partition_B(keys.slots)),
        values_mma.make_fragment_B(o_slice.partition_B(transposed(values.slots))),
        keys, values, scores_mma, values_mma, factors, build,
    )  # fmt: skip
    own, block = config.own, config.block
    held = Held(
        cute.make_rmem_tensor(s_slice.partition_shape_C((own, block)), Float32),
        cute.make_rmem_tensor(o_slice.partition_shape_A((own, block)), queries.slots.element_type),
        cute.make_rmem_tensor(o_slice.partition_shape_C((own, config.width_v)), Float32),
        cute.make_rmem_tensor(2, Float32),
        cute.make_rmem_tensor(2, Float32),
    )
    held.o.fill(0.0)
    held.peak.fill(-float("inf"))
    held.total.fill(0.0)
    return held, given


@cute.jit
def await_queries(queries, given):
    """Begins the turns, and waits for the queries."""
    groups = given.build.config.groups
    if cutlass.const_expr(groups > 1):  # noqa: SIM102 - one when compiled, one when run
        if given.part == groups - 1:
            _pass_turn(given)  # to the first: nobody else would
    arch.mbarrier_wait(queries.full, 0)


@cute.jit
def walk(held, given, visit):
    """All tiles that the rows see, one at least: those that need a mask, then the whole ones."""
    first_step(held, given, visit)
    steps(held, given, visit, 0, 1)
    last_step(visit.where[2] + visit.where[3], held, given)


@cute.jit
def steps(held, given, visit, before, done):
    """The tiles of a visit from the done-th on; before: how many are of earlier visits."""
    edges, count = visit.where[3], visit.where[2] + visit.where[3]
    for i in cutlass.range(done, edges, unroll=1):
        _step(before + i, held, given, nth(i, visit.where), visit, edge=True)
    for i in cutlass.range(cutlass.max(edges, done), count, unroll=1):
        _step(before + i, held, given, 0, visit, edge=False)


def first_step(held, given, visit):
    """The first tile's weights; it is masked, which changes nothing of one that needs no mask."""
    slot = receive(given.keys, 0)
    multiply(given.scores_mma, held.s, given.q, given.k[None, None, None, slot], fresh=True)
    warpgroup.wait_group(0)
    release(given.keys, 0, given.lane)
    weights, fades = _weigh(held, given, nth(0, visit.where), visit, edge=True)
    _fade(held, given, fades)
    rounded(held.p, weights)


def _step(i, held, given, tile, visit, *, edge):
    """The i-th tile's weights, beside the weighted values of the one before it."""
    slot = receive(given.keys, i)
    _take_turn(given)
    multiply(given.scores_mma, held.s, given.q, given.k[None, None, None, slot], fresh=True)
    slot = receive(given.values, i - 1)
    multiply(given.values_mma, held.o, held.p, given.v[None, None, None, slot], fresh=False)
    _pass_turn(given)
    warpgroup.wait_group(1)
    release(given.keys, i, given.lane)
    weights, fades = _weigh(held, given, tile, visit, edge=edge)
    warpgroup.wait_group(0)
    release(given.values, i - 1, given.lane)
    _fade(held, given, fades)
    rounded(held.p, weights)


def last_step(count, held, given):
    """The last tile's weighted values."""
    slot = receive(given.values, count - 1)
    multiply(given.values_mma, held.o, held.p, given.v[None, None, None, slot], fresh=False)
    warpgroup.wait_group(0)


def _take_turn(given):
    """Waits until the warpgroup before has asked for its products."""
    if given.build.config.groups > 1:
        arch.barrier(barrier_id=FIRST_TURN + given.part, number_of_threads=2 * WARPGROUP)


def _pass_turn(given):
    """Lets the next warpgroup ask."""
    groups = given.build.config.groups
    if groups > 1:
        following = (given.part + 1) % groups
        arch.barrier_arrive(barrier_id=FIRST_TURN + following, number_of_threads=2 * WARPGROUP)


def _weigh(held, given, tile, visit, *, edge):
    """The weights of the products in `s`, and what older sums fade to."""
    scale, cap = given.factors
    scores = read(held.s)
    if given.build.capped:
        online.capped(scores, scale, cap, lanes)
        scale = 1.0
    if edge:
        first_key = tile * given.build.config.block
        length, low, high, _ = visit
        online.masked(scores, given.lane, given.rows, first_key, length, low, high, lanes)
    fades, peaks, totals = online.soften(scores, read(held.peak), read(held.total), scale, lanes)
    write(held.peak, peaks)
    write(held.total, totals)
    return scores, fades


@cute.jit
def _fade(held, given, fades):
    """Older sums of weighted values, relative to the new peaks: nothing to do where none is new."""
    if cutlass.const_expr(given.build.config.lazy):
        if arch.vote_any_sync((fades[0] != 1.0) | (fades[1] != 1.0)):
            _multiplied(held, fades)
    else:
        _multiplied(held, fades)


def _multiplied(held, fades):
    write(held.o, [x * fades[i // 2 % 2] for i, x in enumerate(read(held.o))])


@cute.jit
def _take_over(held, given, acc, lse, M):
    """Goes on from an out in float32, and an lse; rows beyond the last one from anything finite."""
    o = flat(held.o)
    for half in cutlass.range_constexpr(2):
        row = given.rows[half]
        logarithm = Float32(0.0)
        if row < M:
            logarithm = lse[row]
            for i in cutlass.range_constexpr(2 * half, cute.size(o), 4):
                pair = pair_at(acc, row, column_of(given.lane, i)).load()
                o[i] = pair[0]
                o[i + 1] = pair[1]
        peak, total = online.carried(logarithm, given.lane, lanes)
        held.peak[half] = peak
        held.total[half] = total


@cute.jit
def hand_over(held, given, out, lse, stop, lost=None):
    """Writes out and lse, of rows before `stop`. lost: what is added to all, NaN or 0."""
    o = flat(held.o)
    for half in cutlass.range_constexpr(2):
        row = given.rows[half]
        share, logarithm = online.finished(held.peak[half], held.total[half], lanes)
        if cutlass.const_expr(lost is not None):
            share, logarithm = share + lost, logarithm + lost
        if row < stop:
            for i in cutlass.range_constexpr(2 * half, cute.size(o), 4):
                pair = cute.make_rmem_tensor(2, Float32)
                pair[0] = o[i] * share
                pair[1] = o[i + 1] * share
                pair_at(out, row, column_of(given.lane, i)).store(pair.load().to(out.element_type))
            if given.lane % 4 == 0:
                lse[row] = logarithm
