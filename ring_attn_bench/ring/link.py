"""The seam between the executor and a transport: one rank's end of it, for one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from ring_attn_bench.plan import Plan
from ring_attn_bench.positions import Range


class Link(Protocol):
    """Moves packed keys (tokens, width) and packed gradients of them, as a plan says.

    The calls of a pass are publish, then post, landed and give for its steps in order, received
    in between and at the end, finish. None of them but `landed`, `received` and `finish` waits,
    and on a GPU those make the current stream wait, not the host.
    """

    def publish(self, keys: Tensor, plan: Plan) -> None:
        """Makes this rank's packed keys readable, for the pass that `plan` describes.

        keys has no tokens if the plan sends none.
        """
        ...

    def post(self, index: int) -> None:
        """Starts step `index`'s transfer: its fetches, and the sends it owes."""
        ...

    def landed(self, index: int) -> Tensor:
        """The packed keys of step `index`, (landing_tokens, width), when they have arrived."""
        ...

    def give(self, index: int, partials: Tensor) -> None:
        """Starts giving step `index`'s packed gradients, laid out like its keys, to their owners.

        The link owns `partials` from here on.
        """
        ...

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """Partial gradients of this rank's own tokens, each once, in a fixed order.

        Leaves at most `outstanding` gives in flight.
        """
        ...

    def finish(self) -> None:
        """Waits for everything that is still on its way."""
        ...
