"""What ends a pass whose peers have gone: what a stream waits for has no timer of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from weakref import ref

import torch

from ring_attn_bench.errors import RingBroken
from ring_attn_bench.plan.plans import Plan

if TYPE_CHECKING:
    from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine

_LOOKS = 40
"""How often a timeout's length is looked at."""


class _Followed(NamedTuple):
    number: int
    end: torch.cuda.Event
    plan: Plan
    slot: int
    head_groups: int
    enqueued: float


class Watch:
    """Follows the passes of a transport from a thread of its own, which begins at the first.

    A pass that has not ended by the timeout, counted from when it is the oldest, ends the ring:
    every later call raises RingBroken, and its waits are released: kernels that wait write NaN,
    and what others would have brought is NaN.
    """

    def __init__(self, transport: CopyEngine, timeout: timedelta) -> None:
        self._transport, self._timeout = ref(transport), timeout.total_seconds()
        self._passes: deque[_Followed] = deque()
        self._spare: deque[torch.cuda.Event] = deque()  # of passes that are over
        self._more, self._ended = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._number = 0
        self._broken: str | None = None

    def follow(self, stream: torch.cuda.Stream, plan: Plan, slot: int, head_groups: int) -> None:
        """Watches a pass that is enqueued on the stream to its end."""
        self._number += 1
        end = self._spare.popleft() if self._spare else torch.cuda.Event()
        end.record(stream)
        self._passes.append(_Followed(self._number, end, plan, slot, head_groups, time.monotonic()))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="ring-watch")
            self._thread.start()
        if not self._more.is_set():
            self._more.set()

    def check(self) -> None:
        """Raises RingBroken if a pass was given up."""
        if self._broken is not None:
            raise RingBroken(self._broken)

    def end(self) -> None:
        """Ends the watching thread."""
        self._ended = True
        self._more.set()

    def _run(self) -> None:
        transport = self._transport()
        if transport is None:
            return
        at, pause = transport.driver, min(0.2, self._timeout / _LOOKS)
        torch.cuda.set_device(transport.device)
        at.let_capture()
        del transport
        since = time.monotonic()
        while not self._ended and self._transport() is not None:
            if not self._passes:
                self._more.clear()
                if not self._passes:
                    self._more.wait(timeout=5.0)
                since = time.monotonic()
                continue
            oldest = self._passes[0]
            if oldest.end.query():
                self._passes.popleft()
                self._spare.append(oldest.end)
                since = time.monotonic()
                continue
            if time.monotonic() - max(since, oldest.enqueued) > self._timeout:
                self._give_up(oldest)
                return
            time.sleep(pause)

    def _give_up(self, oldest: _Followed) -> None:
        transport = self._transport()
        if transport is None:
            return
        awaited = transport.awaited(oldest.plan, oldest.slot, oldest.head_groups)
        self._broken = (
            f"pass {oldest.number} of the ring did not end within {self._timeout:.0f} s: rank "
            f"{oldest.plan.rank} waited for {awaited} in vain: another rank has died, hangs, or "
            "makes other calls. The results of that pass and of later ones are void, and this "
            "ring can compute no more."
        )
        transport.release()  # when calls raise already: what it lets end cannot be taken for right
        while self._passes:  # those behind it wait as well
            last = self._passes.popleft()
            while not last.end.query():
                transport.release()
                time.sleep(0.05)
