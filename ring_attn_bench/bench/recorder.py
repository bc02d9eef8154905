"""What happens in one call, by marks on a clock: CUDA events on a GPU, the host's clock without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from ring_attn_bench.records.trace import Lane

Mark = TypeVar("Mark")
Landed = TypeVar("Landed", bound=torch.Tensor)


class Clock(Protocol[Mark]):
    """Makes marks, and says afterwards when they were."""

    name: str

    def mark(self, stream: torch.cuda.Stream | None = None) -> Mark:
        """Now; on a GPU when that stream, by itself the current one, comes to it."""
        ...

    def arrival(self, wait: Callable[[], Landed]) -> tuple[Landed, Mark]:
        """Waits for what lands, and marks when it has: on a GPU apart from what launches do."""
        ...

    def milliseconds(self, mark: Mark) -> float:
        """From some moment, the same for all marks of a clock; once all work is done."""
        ...


class HostClock:
    """A CPU's: `time.perf_counter`, which does not go back."""

    name = "the host's monotonic clock"

    def mark(self, stream: torch.cuda.Stream | None = None) -> float:
        """Now, in milliseconds."""
        return time.perf_counter() * 1e3

    def arrival(self, wait: Callable[[], Landed]) -> tuple[Landed, float]:
        """As somebody has waited for it: it may have been there before."""
        landed = wait()
        return landed, self.mark()

    def milliseconds(self, mark: float) -> float:
        """It is."""
        return mark


class DeviceClock:
    """A GPU's: events, which streams come to."""

    name = "CUDA events"

    def __init__(self) -> None:
        self._aside = torch.cuda.Stream()
        self._first = self.mark()

    def mark(self, stream: torch.cuda.Stream | None = None) -> torch.cuda.Event:
        """An event on that stream, by itself on the current one."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(stream or torch.cuda.current_stream())
        return event

    def arrival(self, wait: Callable[[], Landed]) -> tuple[Landed, torch.cuda.Event]:
        """A stream of its own waits, and the current one for that: so it is seen when something
        arrives under launches."""
        current = torch.cuda.current_stream()
        with torch.cuda.stream(self._aside):
            landed = wait()
            arrived = self.mark(self._aside)
        current.wait_stream(self._aside)
        landed.record_stream(current)
        return landed, arrived

    def milliseconds(self, mark: torch.cuda.Event) -> float:
        """From the first event of all."""
        return float(self._first.elapsed_time(mark))


@dataclass(frozen=True, slots=True)
class Marked(Generic[Mark]):
    """A span whose ends are not known yet."""

    lane: Lane
    name: str
    step: int | None
    start: Mark
    end: Mark


class Recorder(Generic[Mark]):
    """Collects spans of one rank."""

    def __init__(self, clock: Clock[Mark]) -> None:
        self.clock = clock
        self._spans: list[Marked[Mark]] = []

    def add(self, lane: Lane, name: str, step: int | None, start: Mark, end: Mark) -> None:
        """One more span."""
        self._spans.append(Marked(lane, name, step, start, end))

    @contextmanager
    def span(
        self, lane: Lane, name: str, step: int | None, stream: torch.cuda.Stream | None = None
    ) -> Iterator[None]:
        """What is done, or enqueued, inside."""
        start = self.clock.mark(stream)
        yield
        self.add(lane, name, step, start, self.clock.mark(stream))

    def clear(self) -> None:
        """Forgets what was before."""
        self._spans.clear()

    def told(self) -> list[dict[str, object]]:
        """The spans with times on this rank's clock, once all work is done."""
        when = self.clock.milliseconds
        return [
            {
                "lane": x.lane, "name": x.name, "step": x.step,
                "start": when(x.start), "end": when(x.end),
            }
            for x in self._spans
        ]  # fmt: skip
