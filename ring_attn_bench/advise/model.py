"""What the cost model says of a way at a shape: what the ring's `auto` reads, and nothing else.

`plan/cost.py` with the figures of `plan/measured.py` for time, `plan/memory.py` for a
call's memory. Where they know a way, advice is what was measured times what they say of the
difference; where they do not, only lengths of one shape are compared, by their work.
"""

from __future__ import annotations

from functools import cache

from ring_attn_bench.advise.figures import RingWay, Shape
from ring_attn_bench.plan import cost
from ring_attn_bench.plan import memory as plan_memory
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.measured import MACHINES
from ring_attn_bench.plan.memory import KernelMemory, ShardShape
from ring_attn_bench.plan.plans import Plan, plans
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import layout_of

ABLE = Abilities(frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW}), gathers=True)
"""Enough for causal and full masks; who can do less was not right there, and has no figure."""
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_WIDE = 4


def knows(way: RingWay, shape: Shape) -> bool:
    """Whether it has figures of that GPU, kernel, transport and dtype."""
    machine = MACHINES.get(shape.gpu)
    return (
        machine is not None
        and way.backend in machine.kernels
        and way.transport in machine.ways
        and BYTES.get(shape.dtype) == 2
    )


def milliseconds(way: RingWay, shape: Shape) -> float:
    """Of the slowest rank; where nothing is known of the way, its work in no unit."""
    return _slowest(way, shape, queued=False) if knows(way, shape) else flops(shape)


def on_the_gpu(way: RingWay, shape: Shape) -> float:
    """The share of that time which is left where the host is ahead: little where it decides."""
    if not knows(way, shape):
        return 1.0
    return _slowest(way, shape, queued=True) / _slowest(way, shape, queued=False)


@cache
def _slowest(way: RingWay, shape: Shape, *, queued: bool) -> float:
    asked, plans = _asked(way, shape), _plans(way, shape)
    return 1e3 * max(
        cost.seconds(asked, plan, backward=shape.backward, queued=queued) for plan in plans
    )


def call_bytes(way: RingWay, shape: Shape) -> float:
    """The most that a call takes beyond its inputs; of a peer, the size of its tensors."""
    if not way.is_ours:
        return shard_bytes(shape)
    machine = MACHINES.get(shape.gpu)
    kernel = machine.kernels.get(way.backend) if machine else None
    memory = KernelMemory(accumulates=kernel is not None and kernel.accumulates, needs_delta=True)
    one, sizes = _plans(way, shape)[0], _shard(shape, _travels(way, shape))
    if not shape.backward:
        return plan_memory.forward(one, sizes, memory, symmetric=False).bytes
    keeps = way.keep_keys
    return plan_memory.forward_backward(one, sizes, memory, symmetric=False, keeps=keeps).bytes


def kept_bytes(way: RingWay, shape: Shape) -> float:
    """What grows of memory that peers reach: two areas of packed keys, and with a backward room
    for their gradients from each other rank."""
    width = shape.batch * shape.seqlen_per_gpu * shape.heads_kv * 2 * shape.head_dim
    partials = (shape.world_size - 1) * _travels(way, shape) if shape.backward else 0
    return width * (2 * BYTES[shape.dtype] + partials)


def flops(shape: Shape) -> float:
    """Floating point operations that the mask asks of each GPU, forward and, if asked, backward."""
    whole = shape.seqlen_per_gpu * shape.world_size
    pairs = whole * (whole + 1) / 2 if shape.causal else float(whole) ** 2
    of_rank = _shard(shape).flops(pairs / shape.world_size, backward=False)
    if shape.backward:
        of_rank += _shard(shape).flops(pairs / shape.world_size, backward=True)
    return of_rank


def shard_bytes(shape: Shape) -> float:
    """Of a rank's q, k and v, and of dout where there is a backward."""
    heads = shape.heads_q * (1 + shape.backward) + 2 * shape.heads_kv
    return shape.batch * shape.seqlen_per_gpu * heads * shape.head_dim * BYTES[shape.dtype]


def _shard(shape: Shape, travels: int = _WIDE) -> ShardShape:
    return ShardShape(
        shape.batch, shape.heads_q, shape.heads_kv, shape.head_dim, shape.head_dim,
        element=BYTES[shape.dtype], travels=travels,
    )  # fmt: skip


def _asked(way: RingWay, shape: Shape) -> cost.ToPredict:
    shard = _shard(shape, _travels(way, shape))
    return cost.ToPredict(MACHINES[shape.gpu], way.backend, way.transport, shard)


def _travels(way: RingWay, shape: Shape) -> int:
    return BYTES[shape.dtype] if way.gradients == "input" else _WIDE


def options(way: RingWay) -> RingOptions:
    """Those of our ring by which keys come this way, over whatever transport."""
    return RingOptions(**way.model_dump(include={"schedule", "gradients", "keep_keys"}))


def _plans(way: RingWay, shape: Shape) -> tuple[Plan, ...]:
    where = way.partition, shape.world_size, shape.seqlen_per_gpu, shape.causal
    return _planned(*where, options(way))


@cache
def _planned(
    partition: str, world_size: int, seqlen_per_gpu: int, causal: bool, asked: RingOptions
) -> tuple[Plan, ...]:
    layout = layout_of(partition, world_size, seqlen_per_gpu, Mask(causal=causal), asked)
    of_ranks = plans(layout, ABLE)
    assert not isinstance(of_ranks, str)  # of causal and full masks all blocks are there
    return tuple(of_ranks)
