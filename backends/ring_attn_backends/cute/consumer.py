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
    """What a thread works with: where it is, what is multiplied, and the launch's numbers."""

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
    numbers: Any
    build: Any


@cute.jit
def consume(pipes, products, results, first_row, where, numbers, build: cutlass.Constexpr):
    """out and lse of a warpgroup's 64 rows; all as `forward.program` has them."""
    queries, keys, values = pipes
    scores_mma, values_mma = products
    acc, out, lse = results
    config, M = build.config, numbers[0]
    lane, warp = arch.lane_idx(), arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    s_slice, o_slice = (mma.get_slice(part * WARPGROUP) for mma in (scores_mma, values_mma))
    given = Given(
        lane, part, [first_row + 64 * part + row_of(lane, warp % 4, half) for half in (0, 1)],
        scores_mma.make_fragment_A(s_slice.partition_A(queries.slots))[None, None, None, 0],
        scores_mma.make_fragment_B(s_slice.partition_B(keys.slots)),
        values_mma.make_fragment_B(o_slice.partition_B(transposed(values.slots))),
        keys, values, scores_mma, values_mma, numbers, build,
    )  # fmt: skip
    own, block, width = config.own, config.block, config.width
    held = Held(
        cute.make_rmem_tensor(s_slice.partition_shape_C((own, block)), Float32),
        cute.make_rmem_tensor(o_slice.partition_shape_A((own, block)), queries.slots.element_type),
        cute.make_rmem_tensor(o_slice.partition_shape_C((own, width)), Float32),
        cute.make_rmem_tensor(2, Float32),
        cute.make_rmem_tensor(2, Float32),
    )
    held.o.fill(0.0)
    held.peak.fill(-float("inf"))
    held.total.fill(0.0)
    if cutlass.const_expr(build.carried):
        _take_over(held, given, acc, lse, M)
    if cutlass.const_expr(config.groups > 1):  # noqa: SIM102 - one when compiled, one when run
        if part == config.groups - 1:
            _pass_turn(given)  # to the first: nobody else would
    arch.mbarrier_wait(queries.full, 0)
    if where[2] + where[3] > 0:
        walk(held, given, where)
    _hand_over(held, given, out, lse, M)


@cute.jit
def walk(held, given, where):
    """All tiles that the rows see, one at least: those that need a mask, then the whole ones."""
    edges, count = where[3], where[2] + where[3]
    _first_step(held, given, nth(0, where))
    for i in cutlass.range(1, edges, unroll=1):
        _step(i, held, given, nth(i, where), edge=True)
    for i in cutlass.range(cutlass.max(edges, 1), count, unroll=1):
        _step(i, held, given, 0, edge=False)
    _last_step(count, held, given)


def _first_step(held, given, tile):
    """The first tile's weights; it is masked, which changes nothing of one that needs no mask."""
    slot = receive(given.keys, 0)
    multiply(given.scores_mma, held.s, given.q, given.k[None, None, None, slot], fresh=True)
    warpgroup.wait_group(0)
    release(given.keys, 0, given.lane)
    weights, fades = _weigh(held, given, tile, edge=True)
    _fade(held, given, fades)
    rounded(held.p, weights)


def _step(i, held, given, tile, *, edge):
    """The i-th tile's weights, beside the weighted values of the one before it."""
    slot = receive(given.keys, i)
    _take_turn(given)
    multiply(given.scores_mma, held.s, given.q, given.k[None, None, None, slot], fresh=True)
    slot = receive(given.values, i - 1)
    multiply(given.values_mma, held.o, held.p, given.v[None, None, None, slot], fresh=False)
    _pass_turn(given)
    warpgroup.wait_group(1)
    release(given.keys, i, given.lane)
    weights, fades = _weigh(held, given, tile, edge=edge)
    warpgroup.wait_group(0)
    release(given.values, i - 1, given.lane)
    _fade(held, given, fades)
    rounded(held.p, weights)


def _last_step(count, held, given):
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


def _weigh(held, given, tile, *, edge):
    """The weights of the products in `s`, and what older sums fade to."""
    _, N, low, high, scale, cap = given.numbers
    scores = read(held.s)
    if given.build.capped:
        online.capped(scores, scale, cap, lanes)
        scale = 1.0
    if edge:
        first_key = tile * given.build.config.block
        online.masked(scores, given.lane, given.rows, first_key, N, low, high, lanes)
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
def _hand_over(held, given, out, lse, M):
    """Writes out and lse, of rows that there are."""
    o = flat(held.o)
    for half in cutlass.range_constexpr(2):
        row = given.rows[half]
        share, logarithm = online.finished(held.peak[half], held.total[half], lanes)
        if row < M:
            for i in cutlass.range_constexpr(2 * half, cute.size(o), 4):
                pair = cute.make_rmem_tensor(2, Float32)
                pair[0] = o[i] * share
                pair[1] = o[i + 1] * share
                pair_at(out, row, column_of(given.lane, i)).store(pair.load().to(out.element_type))
            if given.lane % 4 == 0:
                lse[row] = logarithm
