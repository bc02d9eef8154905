"""Which way for keys to come is fastest by the cost model, where a machine's figures are known.

Everything follows from shapes, ranks, kernel and transport, so that all ranks find the same.
Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ring_attn_bench.plan import cost
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.measured import MACHINES
from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.ring.options import RingOptions, texts

_log = logging.getLogger("ring_attn_bench")

MARGIN = 0.05
"""How much faster than the rule something must be: twice the model's median error."""

_BYTES = {"float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Known:
    """A call on a machine whose figures are known. able: what blocks its kernel can be given;
    backward: whether a backward follows."""

    asked: cost.ToPredict
    able: Abilities
    backward: bool

    @classmethod
    def of(
        cls, problem: Problem, options: RingOptions, able: Abilities,
        *, gpu: str, kernel: str, transport: str,
    ) -> Known | None:  # fmt: skip
        """None where a figure is missing: of the GPU, of the kernel on it, of the transport, of
        the dtype."""
        machine = MACHINES.get(gpu)
        if machine is None or problem.dtype not in _BYTES:
            return None
        element = _BYTES[problem.dtype]
        narrow = options.gradients == "input" or able.rounds  # nearly always one share each
        shape = ShardShape(
            problem.batch, problem.heads_q, problem.heads_kv, problem.head_dim, problem.head_dim_v,
            element=element, travels=element if narrow else 4,
        )  # fmt: skip
        asked = cost.ToPredict(machine, kernel, transport, shape)
        return cls(asked, able, problem.backward) if asked.known else None


def fastest(layouts: Mapping[RingOptions, Layout], rule: RingOptions, known: Known) -> RingOptions:
    """The fastest of the layouts, or the rule's.

    It must be `MARGIN` faster than the rule from an idle host, and no slower from one that is
    ahead: fewer steps save a host time that a full queue or a graph hides.
    """
    times = {took: _seconds(layout, known) for took, layout in layouts.items()}
    base = times[rule]
    if base is None:
        return rule  # choosing a backend says what its kernel lacks
    better = {
        took: time[0]
        for took, time in times.items()
        if time is not None and time[0] < (1 - MARGIN) * base[0] and time[1] <= base[1]
    }
    return min(better, key=lambda took: better[took], default=rule)


def _seconds(layout: Layout, known: Known) -> tuple[float, float] | None:
    """From an idle host and from one that is ahead, of the slowest rank; None where the kernel
    lacks a block."""
    of_ranks = plans(layout, known.able)
    if isinstance(of_ranks, str):
        return None

    def slowest(*, queued: bool) -> float:
        return max(
            cost.seconds(known.asked, one, backward=known.backward, queued=queued)
            for one in of_ranks
        )

    return slowest(queued=False), slowest(queued=True)


@cache
def announce(took: RingOptions, kernel: str, transport: str, gpu: str, ranks: int) -> None:
    """Says what schedule `auto` took: once for each choice, on one rank, because all choose alike.

    gpu: nothing where no figures are known, so that it was the rule's.
    """
    words = texts(took)
    choice = f"{words['schedule']}, grouping {words['grouping']}, slots {words['slots']}"
    where = f"{kernel} over {transport} on {ranks} ranks"
    if not gpu:
        _log.info("schedule 'auto' chose %s by rule: no figures are known for %s.", choice, where)
        return
    _log.warning(
        "schedule 'auto' chose %s for %s of %s; RingOptions(schedule=) chooses.", choice, where, gpu
    )
