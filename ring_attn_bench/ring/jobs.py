"""What ranks of a ring do for a call: the one place where a layout, a kernel and options meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.plans import Layout
from ring_attn_bench.plan.problem import Problem, Score
from ring_attn_bench.ring.backend_choice import able, ring_planner
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.packing import accumulator_dtype


def jobs(
    problem: Problem,
    layout: Layout,
    backend: Backend,
    score: Score,
    options: RingOptions,
    ranks: Sequence[int],
) -> tuple[Job, ...]:
    """What each of these ranks computes, forward and backward.

    problem: of the whole sequence. Raises Unsupported where the kernel has no blocks for the plan
    of some rank of the ring, whichever that is.
    """
    blocks = able(backend, problem)
    travel = travel_dtype(options, getattr(torch, problem.dtype))
    of_ranks = []
    for rank in ranks:
        plan = ring_planner(layout, rank, problem.mask)(blocks)
        if isinstance(plan, str):
            raise Unsupported(backend.name, plan)
        of_ranks.append(Job(plan, backend, score, travel, problem.deterministic))
    return tuple(of_ranks)


def travel_dtype(options: RingOptions, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which dk, dv partials of `dtype` inputs travel to their owner."""
    return dtype if options.gradients == "input" else accumulator_dtype(dtype)
