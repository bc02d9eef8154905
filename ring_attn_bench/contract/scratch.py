"""What a kernel takes for itself while a launch runs, where it says so."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.memory import Scratch
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Problem


class FrugalBackend(Protocol):
    """A backend that knows what its launches take beside their results: forward, nothing."""

    def scratch_bytes(self, problem: Problem, launch: Launch | Gathered) -> int:
        """The most at one time of a backward's launch, on the GPU that is current.

        problem: of the whole sequence.
        """
        ...


def scratch_of(backend: object, problem: Problem) -> Scratch | None:
    """What such a backend says of each launch; None of any other, which takes nobody knows what."""
    if not callable(getattr(type(backend), "scratch_bytes", None)):
        return None
    return partial(cast("FrugalBackend", backend).scratch_bytes, problem)
