"""How a ring moves data: the choices of a user, as one frozen value. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ring_attn_bench import registry
from ring_attn_bench.errors import InvalidArgument, UnknownName


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How a ring moves data.

    transport: how keys travel, by a name of `registry.transports()`; `auto` takes the first of
        them that the group can do, and `RingContext.transport` says which.
    slots: landing areas for keys on their way; 2 is the classic ring, world_size - 1 runs ahead
        as far as it can for that much more memory.
    grouping: how many ranks' keys each step brings, e.g. (3,) for a gather of 4 ranks; None is
        one each.
    gradients: dtype in which dk, dv partials travel: `float32`, or `input` for half the bytes.
    handshake: whether ranks compare shapes and arguments before each call, so that a mismatch is
        an error and not a hang; None is yes on gloo, no on NCCL, where it would stall the queue.

    Raises UnknownName or InvalidArgument.
    """

    transport: str = "auto"
    slots: int = 2
    grouping: tuple[int, ...] | None = None
    gradients: Literal["float32", "input"] = "float32"
    handshake: bool | None = None

    def __post_init__(self) -> None:
        if self.transport != "auto":
            registry.check_transport(self.transport)
        if self.gradients not in ("float32", "input"):
            raise UnknownName("gradient dtype", self.gradients, ("float32", "input"))
        if self.slots < 1:
            raise InvalidArgument(f"slots is {self.slots}, but a ring needs at least 1.")
