"""What a ring keeps between calls: its own communicator and the choices that stay the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ring_attn_bench.calls.dense import INT32_MAX
from ring_attn_bench.calls.plain import integer
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.ring import carriers
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.gpus import shared_gpu
from ring_attn_bench.ring.group_counts import evened_out
from ring_attn_bench.ring.groups import abort, destroy, living, resolve_group
from ring_attn_bench.ring.handles import named
from ring_attn_bench.ring.link import Homeward, Link, Resuming, Transport
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.same_options import agree_on_options
from ring_attn_bench.ring.threads import Turn
from ring_attn_bench.ring.transports.choose import transport_for
from ring_attn_bench.ring.transports.played import Part

if TYPE_CHECKING:
    from ring_attn_bench.ring.forward import Job
    from ring_attn_bench.ring.handshake import Signature
    from ring_attn_bench.ring.packing import PackedKeys


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a context is made from, here or, unpickled, in another process.

    ranks: of the world, in the ring's order; None is the default group, whatever its size.
    timeout: None is the default group's.
    """

    options: RingOptions
    ranks: tuple[int, ...] | None
    timeout: timedelta | None


@dataclass(frozen=True, slots=True)
class _Made:
    """A communicator, and what travels over it.

    backends: by device type, what carries its tensors: {"cpu": "gloo", "cuda": "nccl"}.
    transport, name: never `auto`. gpu: as `shared_gpu` says.
    """

    group: dist.ProcessGroup
    rank: int
    world_size: int
    timeout: timedelta | None
    backends: dict[str, str]
    name: str
    transport: Transport
    gpu: str = ""


class RingContext:
    """A ring over a process group, with a communicator of its own.

    Its own, because messages of one communicator run in one order: on the group's, keys would
    queue behind whatever else (FSDP, say) the group is used for.

    group: the ranks of the ring, as a group or a DeviceMesh of one dim; None is the default group.
        Every rank of it must make the context together.
    timeout: after which a message that nobody answers is an error, and so is a rank that does not
        make the context too; None is the given group's.

    Raises NoProcessGroup outside torch.distributed or for a group that was destroyed,
    InvalidArgument for a mesh of more dims or a rank outside the group, TransportUnavailable,
    RingBroken where the other ranks do not come.

    An error that leaves its `with` block ends what the rank has under way, and is not held up by
    peers that wait for it: they find out by the timeout.

    A module that holds one can be copied and pickled: a copy is the same context. Pickled are the
    options, the timeout and the ranks; what is unpickled makes its communicator at its first call
    (or at the first look at `group`, `rank`, ...), which every rank must make, and not before,
    because making it is a collective. A closed one stays closed, unpickled too.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | DeviceMesh | None = None,
        options: RingOptions | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        if not isinstance(options, RingOptions | None):
            raise InvalidArgument(f"options must be RingOptions, got {type(options).__name__}.")
        if timeout is not None and not carriers.is_timeout(timeout):
            what = "a positive timedelta of at most a century"
            raise InvalidArgument(f"timeout is {shown(timeout)}; it must be {what}.")
        self._want(_wanted(resolve_group(group), options, timeout))
        self._made: _Made | None = self._make()  # not at the first call: all ranks are here now

    def _want(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self.keeps = wanted.options.keep_keys  # asked for in every call
        self._made = None
        self._closed = False
        self._passes = 0
        self._end: Callable[[], object] = _nothing
        self._forget()
        self.turn = Turn()
        self.handle = named(self)

    def _forget(self) -> None:
        self.calls: Remembered[tuple[Job, Signature]] = Remembered()
        self.calls_of_documents: Remembered[tuple[Job, Signature]] = Remembered(16)
        self._greeting: dict[torch.device, bool] = {}
        self._parts: dict[Part, Transport] = {}

    def _make(self) -> _Made:
        made = _make(self._wanted)
        # not at exit, when torch takes everything down by itself
        end = finalize(self, destroy, made.group)
        end.atexit = False
        self._end = end
        return made

    def close(self) -> None:
        """Gives the communicator back, with its threads and sockets; every rank must.

        A context that nothing refers to any more is closed too: one that was made for a group's
        calls when that group is destroyed and gone.
        """
        self._closed = True
        self._made = None
        self._forget()
        self._end()

    def __enter__(self) -> RingContext:
        self._check_open()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None and self._made is not None:
            abort(self._made.group)
        self.close()

    def __copy__(self) -> RingContext:
        return self

    def __deepcopy__(self, memo: object) -> RingContext:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self._wanted, self._closed)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument("this RingContext is closed; make another one for further calls.")

    @property
    def _ring(self) -> _Made:
        self._check_open()
        if self._made is None:
            self._made = self._make()
        return self._made

    @property
    def options(self) -> RingOptions:
        """The options as they were given."""
        return self._wanted.options

    @property
    def group(self) -> dist.ProcessGroup:
        """The communicator that is this ring's alone."""
        return self._ring.group

    @property
    def rank(self) -> int:
        """This process's place in the ring."""
        return self._ring.rank

    @property
    def world_size(self) -> int:
        """Ranks of the ring."""
        return self._ring.world_size

    @property
    def timeout(self) -> timedelta | None:
        """After which an unanswered message is an error; None if the backend does not say."""
        return self._ring.timeout

    @property
    def transport(self) -> str:
        """The name of the transport in use, never `auto`."""
        return self._ring.name

    @property
    def gpu(self) -> str:
        """The kind of GPU that all ranks have in one host; nothing where that is not so."""
        return self._ring.gpu

    def reserve(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """Makes the memory that other ranks reach, for packed keys (tokens, width) of every rank.

        A collective of its ranks; without it the first call of such a size makes it, which cannot
        be while a CUDA graph is captured. Nothing for a transport that keeps no memory.

        Raises InvalidArgument for what is no such size.
        """
        self._check_open()
        for name, count in (("tokens", tokens), ("width", width)):
            if not 0 < integer(name, count) <= INT32_MAX:
                raise InvalidArgument(
                    f"{name} is {shown(count)}; it must be a number from 1 to {INT32_MAX}."
                )
        if not isinstance(dtype, torch.dtype):
            raise InvalidArgument(
                f"dtype is {shown(dtype)}; it must be that of the keys, as torch.bfloat16."
            )
        if not isinstance(device, torch.device):
            raise InvalidArgument(
                f"device is {shown(device)}; it must be that of the keys, as torch.device('cpu')."
            )
        reserve = getattr(self._ring.transport, "reserve", None)
        if reserve is not None:
            with self.turn.taken():
                reserve(tokens, width, dtype, device)

    @property
    def arrives(self) -> bool:
        """Whether a launch can wait for keys on their way: `auto` then makes a pass one launch."""
        return bool(getattr(self._ring.transport, "arrives", False))

    @property
    def hands_on(self) -> bool:
        """Whether partial gradients come home as they left, in their dtype and not added up."""
        return bool(getattr(self._ring.transport, "hands_on", False))

    @property
    def room(self) -> Callable[..., PackedKeys] | None:
        """The transport's memory for packed keys with its views, if it keeps any (`packing`)."""
        ring = self._made or self._ring
        room: Callable[..., PackedKeys] | None = getattr(ring.transport, "room", None)
        return room

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The transport's memory for this rank's packed keys of the next pass, (tokens, width)."""
        return (self._made or self._ring).transport.outgoing(tokens, width, dtype, device)

    def begin(self, plan: Plan) -> Link:
        """This rank's end of the transport, for one pass."""
        return (self._made or self._ring).transport.begin(plan)

    def resume(self, plan: Plan) -> Homeward:
        """The same for a backward whose keys were kept: the options said that it can be."""
        resuming: Resuming = (self._made or self._ring).transport  # type: ignore[assignment]
        return resuming.resume(plan)

    def played(self, part: Part) -> Transport | None:
        """A transport like this ring's, whose processes play ranks of a larger ring; a collective.

        None where this one cannot be played.
        """
        play = getattr(self._ring.transport, "played", None)
        if play is not None and part not in self._parts:
            self._parts = {part: play(part)}  # one at a time: it may keep much memory
        return self._parts.get(part)

    def next_number(self) -> int:
        """Counts forward passes, on all ranks alike, so that backward passes can be told apart."""
        self._passes += 1
        return self._passes

    def check_device(self, device: torch.device) -> None:
        """Raises InvalidArgument if the group cannot carry tensors of that device."""
        name = self._ring.backends.get(device.type)
        if name is None or (device.type == "cuda" and name == "gloo"):
            able = ", ".join(f"{kind} by {name}" for kind, name in self._ring.backends.items())
            fitting = "nccl" if device.type == "cuda" else "gloo"
            raise InvalidArgument(
                f"the tensors are on {device}, which this process group cannot carry (it has: "
                f"{able}); initialise it with backend {fitting!r}."
            )

    def shakes_hands(self, device: torch.device) -> bool:
        """Whether calls with tensors of that device are compared between ranks first."""
        if self.options.handshake is not None:
            return self.options.handshake
        return carriers.shakes_hands(self._ring.backends, device)

    def greets(self, device: torch.device) -> bool:
        """`shakes_hands`, of a device that was checked; raises as `check_device`."""
        shakes = self._greeting.get(device)
        if shakes is None:
            self.check_device(device)
            shakes = self._greeting[device] = self.shakes_hands(device)
        return shakes

    def message_device(self, device: torch.device) -> torch.device:
        """Where the handshake's numbers must be: on the CPU if the group carries that."""
        return torch.device("cpu") if "cpu" in self._ring.backends else device


def _nothing() -> None:
    """What it takes to end a context that was not made yet."""


def _unpickled(wanted: _Wanted, closed: bool = False) -> RingContext:
    context = RingContext.__new__(RingContext)
    context._want(wanted)
    context._closed = closed
    return context


def _wanted(
    group: dist.ProcessGroup, options: RingOptions | None, timeout: timedelta | None
) -> _Wanted:
    ranks = None
    if living(group) is not dist.group.WORLD:
        ranks = tuple(dist.get_process_group_ranks(group))
        timeout = carriers.timeout_of(group) if timeout is None else timeout
    return _Wanted(RingOptions() if options is None else options, ranks, timeout)


def _make(wanted: _Wanted) -> _Made:
    """A collective of the ranks; raises what `RingContext` does."""
    world = resolve_group(None)
    ranks = list(wanted.ranks or range(dist.get_world_size()))
    if dist.get_rank() not in ranks:
        raise InvalidArgument(
            f"this context is of a ring of ranks {ranks}, and this is rank {dist.get_rank()}; "
            "call the ring only on its ranks."
        )
    timeout = carriers.timeout_of(world) if wanted.timeout is None else wanted.timeout
    # local synchronization: the other ranks of the world need not take part. Without it, two
    # rings of two inside four ranks mixed their sums or hung.
    with evened_out(ranks, timeout):
        try:
            own = dist.new_group(ranks, timeout=timeout, use_local_synchronization=True)
        except RuntimeError as error:  # a rank has died meanwhile
            raise broken("the others to make its context", world, error) from error
    assert isinstance(own, dist.ProcessGroup)  # this rank is one of its ranks
    try:
        agree_on_options(own, wanted.options, timeout)
        name, transport = transport_for(wanted.options, own, announces=dist.get_rank(own) == 0)
        gpu = shared_gpu(own)
    except BaseException:
        destroy(own)  # or its threads and sockets stay
        raise
    backends = carriers.backend_of_device_types(own)
    return _Made(own, dist.get_rank(own), len(ranks), timeout, backends, name, transport, gpu)


_contexts: WeakKeyDictionary[dist.ProcessGroup, RingContext] = WeakKeyDictionary()
"""Contexts of calls that bring none. Each dies with its group, as what is in `_counts` does."""
_counts: WeakKeyDictionary[dist.ProcessGroup, int] = WeakKeyDictionary()
"""Collectives that were made over a group itself. The two are all of the library's state."""


def next_number(group: dist.ProcessGroup) -> int:
    """Counts the library's collectives over a caller's group, on all of its ranks alike."""
    _counts[group] = number = _counts.get(group, 0) + 1
    return number


def context_for(group: dist.ProcessGroup | DeviceMesh | None) -> RingContext:
    """The group's context, made at the first call that needs it."""
    resolved = resolve_group(group)
    context = _contexts.get(resolved)
    if context is None:
        fresh = _unpickled(_wanted(resolved, None, None))
        with fresh.turn.taken():
            # its place first: of two threads that come at once, one makes it
            context = _contexts.setdefault(resolved, fresh)
            if context is fresh:
                try:
                    context._made = context._make()
                except BaseException:
                    del _contexts[resolved]
                    raise
    return context


def context_of(
    group: dist.ProcessGroup | DeviceMesh | None, context: RingContext | None
) -> RingContext:
    """The context that a call brought, or its group's; raises InvalidArgument for another thing."""
    if context is None:
        return context_for(group)
    if not isinstance(context, RingContext):
        raise InvalidArgument(f"context must be a RingContext, got {type(context).__name__}.")
    return context
