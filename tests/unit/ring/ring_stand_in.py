"""A rank of a ring of two on a CPU, called by the public function: all it costs is the host.

Context, transport, links and programmes are the real ones; the driver, streams, events, messages
and kernels do nothing but count. Calls are small, so that what is left is the host's time.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from types import SimpleNamespace
from unittest.mock import patch

import ring_attn_backends
import torch
import torch.distributed as dist
from ring_attn_backends.reference import ReferenceBackend
from torch.utils._python_dispatch import TorchDispatchMode

from ring_attn_bench import RingContext, RingOptions, zigzag_ring_flash_attn_func
from ring_attn_bench.calls import attend
from ring_attn_bench.ring import context
from ring_attn_bench.ring.transports import p2p
from ring_attn_bench.ring.transports.copy_engine import transport
from ring_attn_bench.ring.transports.copy_engine.places import GpuOfHost
from ring_attn_bench.ring.transports.copy_engine.watch import Watch

TOKENS, HEADS, DIM = 8, 2, 16
asked: Counter[str] = Counter()
"""What the driver, streams, events and messages were asked for."""


class Nothing(ReferenceBackend):
    """Accumulates and gathers, hands out memory, and computes nothing."""

    name = "hands_out"
    needs_delta = True

    def forward_into(self, *_, **__):
        pass

    def backward_into(self, *_, **__):
        pass

    def gathered_forward(self, q, keys, where, score):
        batch, rows, heads, _ = q.shape
        out = q.new_empty(batch, rows, heads, keys.own.v.shape[-1])
        return out, q.new_empty(batch, heads, rows)

    def gathered_dkdv(self, *_, **__):
        pass

    def gathered_dq(self, rows, *_):
        return rows.q.new_empty(rows.q.shape)


class Event:
    """As deep as torch's."""

    def record(self, stream=None):
        asked["event"] += 1

    def wait(self, stream=None):
        asked["wait"] += 1

    def query(self):
        return True


class Stream:
    cuda_stream = 1


class Driver:
    def batch(self, stream, operations):
        asked["batch"] += 1

    def copy(self, stream, to, source, size):
        asked["copy"] += 1

    def copy_rectangle(self, stream, whole):
        asked["copy"] += 1

    def let_capture(self):
        pass


class Area:
    def __init__(self, group, device, size):
        self.memory, self.size = torch.zeros(max(size, 16), dtype=torch.uint8), size
        self.addresses = [self.memory.data_ptr()] * 2


class _Watch(Watch):
    """Every pass is over before the next one ends, and nobody looks."""

    def __init__(self, *given):
        super().__init__(*given)
        self._passes, self._thread = deque(maxlen=1), Thread()
        self._spare = SimpleNamespace(popleft=Event)


class Work:
    def wait(self):
        asked["wait"] += 1


class Group(dist.ProcessGroup):
    """Of NCCL, as far as messages go; nothing is sent."""

    def __init__(self):
        super().__init__(0, 2)

    def _get_backend(self, device):
        return SimpleNamespace(supports_coalescing=True)

    def _start_coalescing(self, device):
        pass

    def _end_coalescing(self, device):
        asked["batch"] += 1
        return Work()

    def send(self, tensors, rank, tag):
        asked["message"] += 1

    recv = send


def _delta(dout, out, wide):
    batch, rows, heads, _ = out.shape
    return out.new_empty(batch, heads, rows, dtype=wide)


def _copy_engine() -> transport.CopyEngine:
    return transport.CopyEngine(None, RingOptions())


def _messages() -> p2p.P2P:
    return p2p.P2P(Group(), RingOptions())


SCHEDULES = {"copy_engine": ("one_launch", _copy_engine), "p2p": ("steps", _messages)}


@contextmanager
def ring_of_two(name: str) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """A forward pass without gradients, and one with the backward behind it, over a transport."""
    schedule, make = SCHEDULES[name]
    stream = Stream()
    cuda = SimpleNamespace(
        current_device=lambda: 0, is_current_stream_capturing=lambda: False,
        synchronize=lambda device: None, Event=Event, set_device=lambda device: None,
        current_stream=lambda device: stream,
    )  # fmt: skip
    fake = SimpleNamespace(
        cuda=cuda, _C=SimpleNamespace(_cuda_getCurrentStream=lambda device: (1, 0, 1)),
        device=lambda *_: torch.device("cpu"),
        **{name: getattr(torch, name) for name in ("tensor", "zeros", "int32", "uint8")},
    )  # fmt: skip
    group = SimpleNamespace(
        get_rank=lambda group: 0, get_world_size=lambda group: 2
    )  # fmt: skip
    places = [GpuOfHost("host", f"gpu {rank}", "") for rank in range(2)]
    changed = [
        (transport, {"torch": fake, "dist": group, "Area": Area, "driver": Driver,
                     "everyones": lambda group: places, "timeout_of": lambda group: None,
                     "Watch": _Watch, "Void": lambda: None,
                     "own_stream": lambda *given, **options: Stream()}),
        (transport.CopyEngine, {"_meet": lambda self: None}),
        (p2p, {"_coalesces": lambda group, device: True}),
        (attend, {"delta": _delta}),
    ]  # fmt: skip
    ring_attn_backends.BACKENDS[Nothing.name] = f"{__name__}:Nothing"
    with ExitStack() as stack:
        for where, values in changed:
            for attribute, value in values.items():
                stack.enter_context(patch.object(where, attribute, value))
        ring = _context(RingOptions(schedule=schedule, transport=name), name, make())
        leaves = [torch.randn(1, TOKENS, heads, DIM).requires_grad_() for heads in (HEADS, 1, 1)]
        dout = torch.randn(1, TOKENS, HEADS, DIM)

        def call() -> torch.Tensor:
            return zigzag_ring_flash_attn_func(
                *leaves, causal=True, backend=Nothing.name, context=ring
            )

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return call()

        yield forward, lambda: torch.autograd.grad(call(), leaves, dout)


def _context(options: RingOptions, name: str, over: object) -> RingContext:
    ring = RingContext.__new__(RingContext)
    ring._want(context._Wanted(options, None, None))
    ring._made = context._Made(None, 0, 2, None, {"cpu": "nccl"}, name, over)
    return ring


class _Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def counted(call: Callable[[], object]) -> Counter[str]:
    """Python functions of ours called, torch's operations, and what `asked` counts, in one warm
    call. Tuples with names count too: each is made by a function.
    """
    for _ in range(4):
        call()
    asked.clear()
    found: Counter[str] = Counter()

    def count(frame, event, argument):
        where = frame.f_code.co_filename
        if event == "call" and ("ring_attn_bench" in where or where == "<string>"):
            found["python"] += 1

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    found.update(asked)
    with _Ops() as ops:
        call()
    found["torch"] = ops.count
    return found
