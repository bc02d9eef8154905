"""What computes a call on one device: one launch, or a ring of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch

from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.one_device.one_launch import OneLaunch
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.plans import Plan, lone_plan
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Problem
from ring_attn_bench.ring.backend_choice import Planner, choose
from ring_attn_bench.ring.call import RingCall
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.transports.alone import Alone

LocalCall = OneLaunch | RingCall


@dataclass(frozen=True)
class OneDevice:
    """Where a call of q (B, M, H, D) and k, v (B, N, G, D) is computed: a `Way`."""

    calls: Remembered[LocalCall] = field(default_factory=Remembered)
    ranks: None = None

    def made(self, problem: Problem, options: Options) -> LocalCall:
        """One launch if that is all, else a ring of one; raises as `choose`."""
        rows = problem.seqlen if problem.queries is None else problem.queries
        planner = local_planner(rows, problem.seqlen, problem.mask)
        backend, plan = choose(options.backend, problem, lambda name: planner)
        wide = accumulator_dtype(getattr(torch, problem.dtype))
        job = Job(plan, backend, options.score(problem.head_dim), wide, problem.deterministic)
        one = OneLaunch.of(job) if options.sink is None else None
        return one or RingCall(job, Alone())


def local_planner(rows: int, keys: int, mask: Mask) -> Planner:
    """The plan for that many queries and keys."""

    return partial(_planned, rows, keys, mask)


@lru_cache(maxsize=1024)
def _planned(rows: int, keys: int, mask: Mask, able: Abilities) -> Plan | str:
    # kept, because making it takes the host longer than a short kernel takes a GPU
    row_span, key_span = aligned(rows, keys)
    lone = lone_plan((row_span,), (key_span,), mask.band, able)
    return f"a mask '{mask}': {lone}" if isinstance(lone, str) else lone


def aligned(rows: int, keys: int) -> tuple[Span, Span]:
    """Positions of queries and keys whose last ones are at one place (flash-attn's alignment)."""
    return Span(max(0, keys - rows), rows), Span(max(0, rows - keys), keys)
