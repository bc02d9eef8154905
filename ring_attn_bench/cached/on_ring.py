"""A cache that is dealt to ranks: each attends over its own tokens, and one collective joins them.

Queries, and what is appended, are alike on all ranks. A rank's part is out and lse of its tokens;
the whole is their sum, weighted by exp(lse) (Dao et al. 2023, Flash-Decoding; over ranks Shyam et
al. 2024, Tree Attention).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ring_attn_bench.cached.call import CacheWay, way_for
from ring_attn_bench.cached.given import CacheGiven
from ring_attn_bench.calls import sinks
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.cached import Dealt
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.call import tell
from ring_attn_bench.ring.carriers import all_gather_single
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.handshake import SINK, Gradients, Signature, agree
from ring_attn_bench.ring.threads import two_threads


def attend_dealt(
    given: CacheGiven,
    options: Options,
    block: object,
    ring: RingContext,
    *,
    check: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """out (B, M, H, E) in q's dtype and lse (B, H, M), on every rank; a collective.

    block: tokens that stay together. check: looks at the caller's other arguments, so that of one
    that is refused the other ranks hear. Raises what `ring_attn_with_kvcache` documents.
    """
    turn = ring.turn
    if not turn.lock.acquire(blocking=False):
        raise turn.refused(partial(tell, given.q, ring))
    try:
        way, given, options = _agreed(given, options, block, ring, check)
        out, lse = way.run(given, options._replace(sink=None), wide=True)
        out, lse = _joined(out, lse, ring)
        if turn.crossed:
            raise two_threads()
    finally:
        turn.lock.release()
    if options.sink is not None:
        out, lse = sinks.joined(out, lse, options.sink)
    return out.to(given.q.dtype), lse


def _agreed(
    given: CacheGiven,
    options: Options,
    block: object,
    ring: RingContext,
    check: Callable[[], None] | None,
) -> tuple[CacheWay, CacheGiven, Options]:
    """The call, checked here and, where ranks shake hands, against the others'."""
    try:
        if check is not None:
            check()
        dealt = Dealt(_checked_block(block), ring.world_size, ring.rank)
        way, given, options = way_for(given, options, dealt)
        greets = ring.greets(given.q.device)
    except Exception:
        tell(given.q, ring)
        raise
    if greets:
        agree(ring.group, ring.message_device(given.q.device), _signature(way, given, options))
    return way, given, options


def _checked_block(block: object) -> int:
    number = integer("block", block)
    if not 0 < number < 2**31:
        raise InvalidArgument(
            f"block is {number}; it must be the number of tokens that stay together on a rank, 1 "
            "or more."
        )
    return number


def _joined(out: Tensor, lse: Tensor, ring: RingContext) -> tuple[Tensor, Tensor]:
    """The parts of all ranks as one: out and lse travel side by side, in lse's dtype."""
    if ring.world_size == 1 or not lse.numel():  # no queries: gloo carries no empty tensors
        return out, lse
    own = torch.cat([out.to(lse.dtype), lse.transpose(1, 2)[..., None]], dim=-1)
    parts = own.new_empty(ring.world_size, *own.shape)
    try:
        all_gather_single(parts.flatten(0, 1), own, group=ring.group)
    except RuntimeError as error:
        raise broken("the parts of the others", ring.group, error) from error
    lses = parts[..., -1]
    peak = lses.amax(0)
    peak = peak.masked_fill(peak.isneginf(), 0.0)
    weights = torch.exp(lses - peak)
    total = weights.sum(0)
    joined = (parts[..., :-1] * weights[..., None]).sum(0)
    joined = joined / total.masked_fill(total == 0, 1.0)[..., None]
    return joined, (peak + total.log()).transpose(1, 2)


def _signature(way: CacheWay, given: CacheGiven, options: Options) -> Signature:
    """Everything that ranks must have in common."""
    problem, length = way.problem, given.cache_seqlens
    assert problem.dealt is not None  # it was made for a ring
    return Signature.of(
        {
            "batch size": problem.batch,
            "queries": problem.queries,
            "query heads": problem.heads_q,
            "key heads": problem.heads_kv,
            "head dim": problem.head_dim,
            "head dim of v": problem.head_dim_v,
            "room": problem.capacity,
            "new tokens": problem.appended,
            "columns to rotate": problem.rotary_dim,
            "block": problem.dealt.block,
            "cache_seqlens": length if isinstance(length, int) else -1,
            SINK: int(options.sink is not None),
        },
        {
            "function": "ring_attn_with_kvcache",
            "dtype": problem.dtype,
            "mask": str(problem.mask),
            "softmax_scale, softcap or alibi_slopes": (
                f"{options.scale(problem.head_dim)!r} {options.softcap!r} {problem.alibi}"
            ),
            "rotary_interleaved": str(given.rotary_interleaved),
            "cache_leftpad": str(problem.padded),
        },
        Gradients.OFF,
    )
