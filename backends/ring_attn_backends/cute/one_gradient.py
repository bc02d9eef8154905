"""As `key_gradients`, of dk alone or of dv alone, where registers do not hold the sums of both.

It has the names of that module, which a kernel takes one of. Scores are multiplied by both kernels,
products of dout and v by that of dk.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import warpgroup

from ring_attn_backends.cute.key_gradients import Given, Held, _begin, _weigh
from ring_attn_backends.cute.operands import multiply, transposed
from ring_attn_backends.cute.pipes import receive, release, release_loaded
from ring_attn_backends.cute.programs import nth_of_heads, row_of
from ring_attn_backends.cute.registers import deliver, read, rounded
from ring_attn_backends.cute.table import WARPGROUP


@cute.jit
def gather(pipes, products, results, keys, visit, each, factors, build: cutlass.Constexpr):
    """dk, or dv, of a warpgroup's 64 keys; all as in `key_gradients.gather`."""
    first_key, N = keys
    held, given = at_work(pipes, products, first_key, factors, build)
    await_keys(pipes)
    walk(held, given, visit, each)
    hand_over(held, given, results, N, (factors[2], Float32(1.0)), build.carried)


def at_work(pipes, products, first_key, factors, build):
    """As there; what is of the other gradient is None. pipes: without values, of dv."""
    keys, values, queries, douts, vectors = pipes
    scores_mma, sums_mma = products
    config, has_dk = build.config, build.has_dk
    lane, warp = arch.lane_idx(), arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    s_slice, o_slice = (mma.get_slice(part * WARPGROUP) for mma in (scores_mma, sums_mma))

    def whole(pipe):
        return scores_mma.make_fragment_A(s_slice.partition_A(pipe.slots))[None, None, None, 0]

    def rows(pipe):
        return scores_mma.make_fragment_B(s_slice.partition_B(pipe.slots))

    def columns(pipe):
        return sums_mma.make_fragment_B(o_slice.partition_B(transposed(pipe.slots)))

    given = Given(
        lane, [first_key + 64 * part + row_of(lane, warp % 4, half) for half in (0, 1)],
        whole(keys), whole(values) if has_dk else None, rows(queries),
        rows(douts) if has_dk else None, columns(queries) if has_dk else None,
        None if has_dk else columns(douts), queries, douts, vectors,
        scores_mma, sums_mma, sums_mma, factors, build,
    )  # fmt: skip
    own, block = config.own, config.block
    width = config.width if has_dk else config.width_v
    tile, weights = s_slice.partition_shape_C((own, block)), o_slice.partition_shape_A((own, block))
    left = cute.make_rmem_tensor(weights, queries.slots.element_type)
    sums = cute.make_rmem_tensor(o_slice.partition_shape_C((own, width)), Float32)
    sums.fill(0.0)
    s = cute.make_rmem_tensor(tile, Float32)
    if has_dk:
        return Held(s, cute.make_rmem_tensor(tile, Float32), None, left, sums, None), given
    return Held(s, None, left, None, None, sums), given


def await_keys(pipes):
    """The program's keys, and for dk its values, of which there is one tile."""
    for pipe in pipes[:2]:
        if pipe is not None:
            arch.mbarrier_wait(pipe.full, 0)


def hand_over(held, given, results, stop, multiples, add):
    """Writes dk or dv of keys before `stop`, or adds it, times its factor."""
    for sums, result, factor in zip((held.dk, held.dv), results, multiples, strict=True):
        if sums is not None:
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
    """Adds the i-th tile's share to what the kernel is of."""
    add = _add_to_dk if given.build.has_dk else _add_to_dv
    add(i, held, given, tile, visit, edge=edge)


def _add_to_dk(i, held, given, tile, visit, *, edge):
    """In three products."""
    capped, ahead = given.build.capped, given.build.config.ahead
    vector = receive(given.vectors, i)
    if not capped:
        _begin(held.s, given, 0, vector)
    _begin(held.dp, given, 1, vector)
    slot = receive(given.queries, i)
    multiply(given.scores_mma, held.s, given.k, given.q[None, None, None, slot], fresh=capped)
    d_slot = receive(given.douts, i)
    multiply(given.scores_mma, held.dp, given.v, given.dout[None, None, None, d_slot], fresh=False)
    warpgroup.wait_group(1)
    if ahead:
        release(given.queries, i - 1, given.lane, i > 0)
    _, factors = _weigh(held, given, tile, visit, vector, edge=edge)
    warpgroup.wait_group(0)
    release(given.douts, i, given.lane)
    release_loaded(given.vectors, i, given.lane)
    rounded(held.ds, [x * y for x, y in zip(factors, read(held.dp), strict=True)])
    multiply(given.sums_mma, held.dk, held.ds, given.q_columns[None, None, None, slot], fresh=False)
    if not ahead:
        warpgroup.wait_group(0)
        release(given.queries, i, given.lane)


def _add_to_dv(i, held, given, tile, visit, *, edge):
    """In two products."""
    capped, ahead = given.build.capped, given.build.config.ahead
    vector = receive(given.vectors, i)
    if not capped:
        _begin(held.s, given, 0, vector)
    slot = receive(given.queries, i)
    multiply(given.scores_mma, held.s, given.k, given.q[None, None, None, slot], fresh=capped)
    warpgroup.wait_group(0)
    release(given.queries, i, given.lane)
    if ahead:
        release(given.douts, i - 1, given.lane, i > 0)
    weights, _ = _weigh(held, given, tile, visit, vector, edge=edge)
    release_loaded(given.vectors, i, given.lane)
    rounded(held.p, weights)
    slot = receive(given.douts, i)
    multiply(
        given.values_mma, held.dv, held.p, given.dout_columns[None, None, None, slot], fresh=False
    )
    if not ahead:
        warpgroup.wait_group(0)
        release(given.douts, i, given.lane)
