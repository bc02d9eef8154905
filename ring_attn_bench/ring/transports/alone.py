"""The transport of a ring of one: there is nobody to talk to."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.transports.memory import FreshMemory


class AloneLink:
    """Serves plans of one step."""

    def publish(self, keys: Tensor) -> None:
        """Nobody else reads the keys."""

    def post(self, index: int) -> None:
        """A plan of one step has none to post."""

    def landed(self, index: int) -> Tensor:
        """Never asked for: a lone rank fetches nothing."""
        raise AssertionError(f"a lone rank fetched step {index}")

    def give(self, index: int, partials: Tensor) -> None:
        """Never asked for: a lone rank gives nothing."""
        raise AssertionError(f"a lone rank gave step {index}")

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """No partials: nobody else has any."""
        return iter(())

    def finish(self) -> None:
        """Nothing is ever on its way."""


class Alone(FreshMemory):
    """A ring of one, without a process group."""

    def begin(self, plan: Plan) -> AloneLink:
        """A link for one pass."""
        return AloneLink()

    def resume(self, plan: Plan) -> AloneLink:
        """As `begin`: nothing is posted but gradients."""
        return self.begin(plan)
