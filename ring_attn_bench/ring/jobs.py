"""What ranks of a ring do for a call: the one place where a layout, a kernel and options meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.plans import plan, plans
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
    *,
    hands_on: bool = True,
) -> tuple[Job, ...]:
    """What each of these ranks computes, forward and backward.

    problem: of the whole sequence. hands_on: whether partial gradients come home as they were
    given. Raises Unsupported where the kernel has no blocks for the plan of some rank of the ring,
    whichever that is.
    """
    blocks = able(backend, problem, documents=layout.documents is not None)
    as_given = hands_on and shares_travel(layout, blocks)
    travel = travel_dtype(options, getattr(torch, problem.dtype), as_given=as_given)
    of_ranks = []
    for rank in ranks:
        made = ring_planner(layout, rank, problem.mask)(blocks)
        if isinstance(made, str):
            raise Unsupported(backend.name, made)
        of_ranks.append(Job(made, backend, score, travel, problem.deterministic))
    return tuple(of_ranks)


def travel_dtype(
    options: RingOptions, dtype: torch.dtype, *, as_given: bool = False
) -> torch.dtype:
    """The dtype in which dk, dv partials of `dtype` inputs travel to their owner.

    as_given: whether each is a share that the kernel has rounded to that dtype, and the transport
    adds to none on its way: float32 would then be twice the bytes for the same numbers.
    """
    narrow = options.gradients == "input" or as_given
    return dtype if narrow else accumulator_dtype(dtype)


def shares_travel(layout: Layout, able: Abilities) -> bool:
    """Whether every partial of every rank is one share, of a kernel that gives it rounded."""
    if not able.rounds:
        return False
    first = plan(layout, 0, able)  # of packed calls none does, and plans of all ranks take long
    if isinstance(first, str) or not first.gives_shares:
        return False
    of_ranks = plans(layout, able)
    return not isinstance(of_ranks, str) and all(one.gives_shares for one in of_ranks)
