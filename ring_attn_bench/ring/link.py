"""The seam between the executor and what moves keys: a transport, and its end of one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.options import RingOptions


class Homeward(Protocol):
    """Takes packed gradients of keys (tokens, width) to the keys' owners, as a pass's plan says."""

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


class Link(Homeward, Protocol):
    """Moves packed keys (tokens, width) too, in one pass, as its plan says.

    The calls of a pass are publish, then post, landed and give for its steps in order, received
    in between and at the end, finish. None of them but `landed`, `received` and `finish` waits,
    and on a GPU those make the current stream wait, not the host.
    """

    def publish(self, keys: Tensor) -> None:
        """Makes this rank's packed keys readable: what the transport's `outgoing` gave, filled.

        keys has no tokens if the plan sends none.
        """
        ...

    def post(self, index: int) -> None:
        """Starts step `index`'s transfer: its fetches, and the sends it owes."""
        ...

    def landed(self, index: int) -> Tensor:
        """The packed keys of step `index`, (landing_tokens, width), when they have arrived.

        The memory is the transport's: it is good until the launches of this step are queued.
        """
        ...


class Transport(Protocol):
    """Moves keys between ranks, and owns the memory that they leave from and land in.

    Passes may overlap: the next one is packed while the last one is still sent from.
    """

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory (tokens, width) to write this rank's packed keys into, for the pass begun next."""
        ...

    def begin(self, plan: Plan) -> Link:
        """This rank's end of a pass."""
        ...


class Resuming(Transport, Protocol):
    """A transport whose passes may keep their keys: what `RingOptions(keep_keys=True)` asks for.

    What `Link.landed` gave stays good then for as long as somebody holds it, where a plan has as
    many slots as steps.
    """

    def resume(self, plan: Plan) -> Homeward:
        """This rank's end of a backward whose keys are here already: only gradients travel."""
        ...


class GroupTransport(Transport, Protocol):
    """A transport by name, in the table of the registry or an entry point: one for each context."""

    def __init__(self, group: dist.ProcessGroup, options: RingOptions) -> None:
        """Over a communicator that is this ring's alone; a collective of its ranks."""

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """Why it cannot serve these ranks, in words, or None; the same on all of them."""
        ...
