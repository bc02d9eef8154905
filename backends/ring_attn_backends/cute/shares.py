"""What dq gets of the row tiles that come: shares of its rows by a program's keys, added by TMA.

Warpgroups show each other what dk is made of, gradients of scores of their 64 keys, in shared
memory: dq sums over all keys of the program. One tile later, when all have long shown theirs, each
multiplies its part of the tile of dq, and lays it on a staging tile in float32, from which a warp
of the producers has TMA add it to what is in global memory (Shah et al. 2024, FlashAttention-3,
whose sums lie there in an order of their own; here rows are rows).
"""
# ruff: noqa: ANN001, ANN201, ANN202 - cutlass infers what registers hold

from typing import Any, NamedTuple

import cutlass
from cutlass import Float32, cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import warpgroup

from ring_attn_backends.cute import key_gradients, lanes
from ring_attn_backends.cute.operands import multiply, transposed
from ring_attn_backends.cute.pipes import await_empty, hand_on, receive, release
from ring_attn_backends.cute.programs import nth_of_heads
from ring_attn_backends.cute.registers import lay, read, write
from ring_attn_backends.cute.table import WARPGROUP

BEHIND = 2**30
"""Added to the number of rows: what no row sees, whatever the band, and no key is."""


class Shares(NamedTuple):
    """A thread's part of a tile of dq, what it is multiplied of, and where both are laid.

    ds: of a slot of `shown`, rows x keys, and k_columns columns x keys, of the whole program.
    key: of a slot of `shown` the first that the warp writes. row, column: the same of a slot of
    `staged`, and the first column of the warpgroup's part.
    """

    dq: Any
    ds: Any
    k_columns: Any
    mma: Any
    shown: Any
    staged: Any
    key: Any
    row: Any
    column: Any


@cute.jit
def gather(pipes, products, results, keys, visit, each, factors, build: cutlass.Constexpr):
    """dk and dv of a warpgroup's 64 keys, and dq's shares; all as `backward_adding.program` has it.

    pipes: five as `key_gradients.gather`, then `shown` and `staged`. keys: the program's first, and
    the one that is behind the last.
    """
    first_key, N = keys
    of_keys, of_shares = pipes[:5], pipes[5:]
    held, given = key_gradients.at_work(of_keys, products[:2], first_key, factors, build)
    given = given._replace(keys=[behind(key, N, visit.length) for key in given.keys])
    shares = at_work(pipes[0], of_shares, products[2], build)
    key_gradients.await_keys(of_keys)
    walk(held, given, shares, visit, each)
    multiples = factors[2], Float32(1.0)
    key_gradients.hand_over(held, given, results, N, multiples, build.carried)


def behind(key, stop, rows):
    """The key, or where there is none, one that no row sees: dq would have its share of it.

    k is 0 there, as TMA brings it, but weights of such a key may be infinite.
    """
    return lanes.where(key < stop, key, rows + BEHIND)


def at_work(keys, pipes, mma, build):
    """Of a thread: a tile of dq is split by rows, 64 to a warpgroup, or by columns."""
    shown, staged = pipes
    config = build.config
    warp = arch.make_warp_uniform(arch.warp_idx())
    part = warp // 4
    own = mma.get_slice(part * WARPGROUP)
    by_rows, by_columns = config.split
    return Shares(
        cute.make_rmem_tensor(own.partition_shape_C((config.block, config.width)), Float32),
        mma.make_fragment_A(own.partition_A(transposed(shown.slots))),
        mma.make_fragment_B(own.partition_B(transposed(keys.slots)))[None, None, None, 0],
        mma, shown, staged,
        16 * warp, 64 * (part % by_rows) + 16 * (warp % 4),
        part // by_rows * (config.width // by_columns),
    )  # fmt: skip


@cute.jit
def walk(held, given, shares, visit, each):
    """All row tiles of `each` heads: those that need a mask, then the whole ones."""
    count = each * (visit.where[2] + visit.where[3])
    if count > 0:
        first_step(held, given, shares, visit, each)
        steps(held, given, shares, visit, 0, 1, each)
        last_share(count, given, shares)


@cute.jit
def steps(held, given, shares, visit, before, done, each):
    """The tiles of a visit from the done-th on; before: how many are of earlier visits."""
    where = visit.where
    edges, count = each * where[3], each * (where[2] + where[3])
    for i in cutlass.range(done, edges, unroll=1):
        _, tile = nth_of_heads(i, each, where)
        _step(before + i, held, given, shares, tile, visit, edge=True)
    for i in cutlass.range(cutlass.max(edges, done), count, unroll=1):
        _step(before + i, held, given, shares, 0, visit, edge=False)


def first_step(held, given, shares, visit, each):
    """The first tile's; it is masked, which changes nothing of one that needs no mask."""
    _, tile = nth_of_heads(0, each, visit.where)
    slot = _show(0, held, given, shares, tile, visit, edge=True)
    _add_keys(slot, held, given)
    warpgroup.wait_group(0)
    release(given.douts, 0, given.lane)
    release(given.queries, 0, given.lane)


def _step(i, held, given, shares, tile, visit, *, edge):
    """The i-th tile's shares of dk and dv, and of dq that of the tile before it, in five products.

    What dq sums over has long been shown by all then, and nobody waits for anybody; and while the
    share is laid on its staging tile, dk's product runs.
    """
    slot = _show(i, held, given, shares, tile, visit, edge=edge)
    _share(i - 1, shares)
    _add_keys(slot, held, given)
    warpgroup.wait_group(1)
    release(given.douts, i, given.lane)
    _stage(i - 1, given, shares)
    warpgroup.wait_group(0)
    release(given.queries, i, given.lane)


def last_share(count, given, shares):
    """Of dq that of the last tile, of `count` in all."""
    _share(count - 1, shares)
    warpgroup.wait_group(0)
    _stage(count - 1, given, shares)


def _show(i, held, given, shares, tile, visit, *, edge):
    """The i-th tile's share of dv; lays gradients of its scores where all warpgroups read them.

    Returns the slot of q.
    """
    slot = key_gradients.differentiate(i, held, given, tile, visit, edge=edge)
    shown = await_empty(shares.shown, i)
    lay(held.ds, shares.shown.slots, shown, shares.key, 0, lanes.lane_now())
    hand_on(shares.shown, i, given.lane)
    return slot


def _add_keys(slot, held, given):
    """Asks for the share of dk of the tile whose queries lie in a slot."""
    multiply(given.sums_mma, held.dk, held.ds, given.q_columns[None, None, None, slot], fresh=False)


def _share(i, shares):
    """Asks for the warpgroup's part of the i-th tile of dq."""
    slot = receive(shares.shown, i)
    ds = shares.ds[None, None, None, slot]
    multiply(shares.mma, shares.dq, ds, shares.k_columns, fresh=True)


def _stage(i, given, shares):
    """Lays it on a staging tile, when it is there, for TMA to add."""
    release(shares.shown, i, given.lane)
    _, _, gradient = given.factors
    write(shares.dq, [x * gradient for x in read(shares.dq)])
    slot = await_empty(shares.staged, i)
    lay(shares.dq, shares.staged.slots, slot, shares.row, shares.column, lanes.lane_now())
    hand_on(shares.staged, i, given.lane)
