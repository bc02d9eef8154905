"""What a ring keeps between calls: its own communicator and the choices that stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from ring_attn_bench.errors import InvalidArgument, NoProcessGroup, UnknownName
from ring_attn_bench.ring.group_counts import even_out
from ring_attn_bench.ring.link import Link
from ring_attn_bench.ring.remembered import Remembered
from ring_attn_bench.ring.transports.p2p import P2PLink

if TYPE_CHECKING:
    from ring_attn_bench.ring.autograd import RingCall
    from ring_attn_bench.ring.handshake import Signature

TRANSPORTS = ("p2p",)


@dataclass(frozen=True, slots=True)
class RingOptions:
    """How a ring moves data.

    transport: how keys travel; `auto` takes the best that the group can do.
    slots: landing areas for keys on their way; 2 is the classic ring, world_size - 1 runs ahead
        as far as it can for that much more memory.
    grouping: how many ranks' keys each step brings, e.g. (3,) for a gather of 4 ranks; None is
        one each.
    gradients: dtype in which dk, dv partials travel: `float32`, or `input` for half the bytes.
    handshake: whether ranks compare shapes and arguments before each call, so that a mismatch is
        an error and not a hang; None is yes on gloo, no on NCCL, where it would stall the queue.
    """

    transport: Literal["auto", "p2p"] = "auto"
    slots: int = 2
    grouping: tuple[int, ...] | None = None
    gradients: Literal["float32", "input"] = "float32"
    handshake: bool | None = None

    def __post_init__(self) -> None:
        if self.transport not in ("auto", *TRANSPORTS):
            raise UnknownName("transport", self.transport, ("auto", *TRANSPORTS))
        if self.gradients not in ("float32", "input"):
            raise UnknownName("gradient dtype", self.gradients, ("float32", "input"))
        if self.slots < 1:
            raise InvalidArgument(f"slots is {self.slots}, but a ring needs at least 1.")


class RingContext:
    """A ring over a process group, with a communicator of its own.

    Its own, because messages of one communicator run in one order: on the group's, keys would
    queue behind whatever else (FSDP, say) the group is used for.

    group: the ranks of the ring; None is the default group. Every rank of it must make the
        context together. Raises NoProcessGroup outside torch.distributed.
    timeout: after which a message that nobody answers is an error; None is torch's default.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        options: RingOptions | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        ranks = dist.get_process_group_ranks(resolve_group(group))
        self.options = options or RingOptions()
        # local synchronization: the other ranks of the world need not take part. Without it, two
        # rings of two inside four ranks mixed their sums or hung.
        even_out(ranks)
        own = dist.new_group(ranks, timeout=timeout, use_local_synchronization=True)
        assert isinstance(own, dist.ProcessGroup)  # this rank is one of its ranks
        self.group = own
        self.rank = dist.get_rank(own)
        self.world_size = len(ranks)
        self.calls: Remembered[tuple[RingCall, Signature]] = Remembered()
        self._backends = _backend_of_device_types(own)

    @property
    def transport(self) -> str:
        """The name of the transport in use, never `auto`."""
        return "p2p"

    def link(self) -> Link:
        """This rank's end of the transport, for one pass."""
        return P2PLink(self.group)

    def check_device(self, device: torch.device) -> None:
        """Raises InvalidArgument if the group cannot carry tensors of that device."""
        name = self._backends.get(device.type)
        if name is None or (device.type == "cuda" and name == "gloo"):
            able = ", ".join(f"{kind} by {name}" for kind, name in self._backends.items())
            fitting = "nccl" if device.type == "cuda" else "gloo"
            raise InvalidArgument(
                f"the tensors are on {device}, which this process group cannot carry (it has: "
                f"{able}); initialise it with backend {fitting!r}."
            )

    def shakes_hands(self, device: torch.device) -> bool:
        """Whether calls with tensors of that device are compared between ranks first."""
        if self.options.handshake is not None:
            return self.options.handshake
        # a device that the group cannot carry is this rank's mistake; the others may wait for it
        carriers = {self._backends.get(device.type, name) for name in self._backends.values()}
        return carriers == {"gloo"}

    def message_device(self, device: torch.device) -> torch.device:
        """Where the handshake's numbers must be: on the CPU if the group carries that."""
        return torch.device("cpu") if "cpu" in self._backends else device

    def gradient_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which dk, dv partials of `dtype` inputs travel."""
        if self.options.gradients == "input" or dtype is torch.float64:
            return dtype
        return torch.float32


def _backend_of_device_types(group: dist.ProcessGroup) -> dict[str, str]:
    """By device type, the backend that carries its tensors: {"cpu": "gloo", "cuda": "nccl"}."""
    pairs = (pair.split(":") for pair in dist.get_backend_config(group).split(","))
    return {kind: name for kind, name in pairs}  # noqa: C416 - dict() wants pairs, not lists


def resolve_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The group, or the default one; raises NoProcessGroup with the way out."""
    if not dist.is_available() or not dist.is_initialized():
        raise NoProcessGroup(
            "a ring needs a process group, and none is initialised: start the program with "
            "`torchrun --nproc-per-node=N` and call torch.distributed.init_process_group() first."
        )
    found = dist.group.WORLD if group is None else group
    if not isinstance(found, dist.ProcessGroup):
        raise InvalidArgument(
            "this rank is not in the process group it was given (got "
            f"{found!r}); call the ring only on the group's ranks."
        )
    return found


_contexts: WeakKeyDictionary[dist.ProcessGroup, RingContext] = WeakKeyDictionary()
"""Contexts of calls that bring none, the library's only state. Each dies with its group."""


def context_for(group: dist.ProcessGroup | None) -> RingContext:
    """The group's context, made at the first call that needs it."""
    found = resolve_group(group)
    if found not in _contexts:
        _contexts[found] = RingContext(found)
    return _contexts[found]
