"""What a launch takes for itself: of the Hopper kernels shares of dk, dv, of plain ones nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ring_attn_backends.triton.hopper import splits
from ring_attn_backends.triton.hopper.serves import serves_problem

if TYPE_CHECKING:
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Problem


def scratch_bytes(problem: Problem, launch: Launch | Gathered) -> int:
    """The contract's own (`contract/scratch.py`), of blocks that are one launch each."""
    if not serves_problem(problem):
        return 0
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return splits.scratch_bytes(problem, launch, gpu.multi_processor_count)
