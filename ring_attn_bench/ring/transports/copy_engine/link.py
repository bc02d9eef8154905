"""One rank's end of a pass over symmetric memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range

if TYPE_CHECKING:
    from ring_attn_bench.ring.transports.copy_engine.route import Gifts, Home, Route
    from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine


class _Giving:
    """Pushes gradients to their owners' inboxes, and reads what lies in this rank's own."""

    _home: Home

    def __init__(
        self, transport: CopyEngine, plan: Plan, slot: int, stream: torch.cuda.Stream
    ) -> None:
        self._transport, self._plan, self._slot, self._stream = transport, plan, slot, stream
        self._driver, self._at = transport.driver, stream.cuda_stream
        self._given: deque[int] = deque()
        self._gifts: Gifts
        self._partials: list[Tensor] = []

    @property
    def copies_on(self) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        """The streams that keys, and gradients, travel on: for who wants to see when they do."""
        return self._transport.pulls, self._transport.pushes

    def give(self, index: int, partials: Tensor) -> None:
        """Enqueues copies into the owners' inboxes, behind what this stream has done."""
        at, driver = self._transport, self._driver
        gifts = self._gifts = self._home.gifts(at, partials)
        at.behind(at.pushes, self._stream)
        stream, start = at.pushes_at, partials.data_ptr()
        for part in gifts.before[index]:
            driver.batch(stream, part)
        for to, offset, size, after in gifts.pushes[index]:
            driver.copy(stream, to, start + offset, size)
            for part in after:
                driver.batch(stream, part)
        self._given.append(index)
        self._partials.append(partials)

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """In step order, which is the same on every run."""
        while len(self._given) > outstanding:
            index = self._given.popleft()
            for part in self._home.taken[index]:
                self._driver.batch(self._at, part)
            yield from self._gifts.inbox[index]


class HomeLink(_Giving):
    """A backward whose keys are here: nobody meets, and no slot is claimed."""

    def __init__(
        self, transport: CopyEngine, plan: Plan, stream: torch.cuda.Stream, home: Home
    ) -> None:
        super().__init__(transport, plan, 0, stream)
        self._home = home

    def finish(self) -> None:
        """Lets the stream wait for the pushes, and gives the inbox back."""
        at = self._transport
        for part in self._home.emptied:
            self._driver.batch(self._at, part)
        at.behind(self._stream, at.pushes)
        self._partials.clear()
        at.ended(self._plan, self._slot, 0, self._stream)


class CopyEngineLink(_Giving):
    """Pulls what the plan fetches, as well.

    Nothing that is waited for on the stream of the launches is enqueued behind them, and copies
    take no multiprocessor: so a launch may itself wait for what `arriving` says.
    """

    _route: Route

    def publish(self, keys: Tensor) -> None:
        """Tells the others that the keys are there, and lets both streams wait for all of them.

        From there on nothing is left but copies; and a copy needs nobody. keys (B * G, N, D + E):
        by heads. Makes the landing slots.
        """
        at, driver = self._transport, self._driver
        route = self._home = self._route = at.route(self._plan, self._slot, keys)
        self._landing = keys.new_empty(route.landing_shape)
        for part in route.meet:
            driver.batch(self._at, part)
        at.behind(at.pulls, self._stream)
        for part in route.nothing_read:
            driver.batch(at.pulls_at, part)

    def post(self, index: int) -> None:
        """Enqueues the step's pulls; a landing slot that was in use is waited for."""
        at, driver = self._transport, self._driver
        stream, step = at.pulls_at, self._route.steps[index]
        if index > self._plan.slots:
            at.behind(at.pulls, self._stream)
        landing = self._landing.data_ptr() + step.slot
        for part in step.before:
            driver.batch(stream, part)
        for lines, start, after in step.pulls:
            lines.enqueue(stream, landing + start)
            for part in after:
                driver.batch(stream, part)
        if step.landed is not None:
            step.landed.record(at.pulls)

    def landed(self, index: int) -> Tensor:
        """The step's slot, when its pulls are done."""
        event = self._route.steps[index].landed
        if event is not None:
            event.wait(self._stream)
        return self._slot_of(index)

    def arriving(self, index: int) -> tuple[Tensor, Tensor | None, int]:
        """The step's slot at once, the words that its launch is to wait for, and head groups.

        Without words where a piece comes from this same GPU: a copy inside a GPU takes
        multiprocessors, which a launch that waits for it might hold.
        """
        route = self._route
        if self._transport.shares_gpu or not route.steps[index].pulls:
            return self.landed(index), None, 1
        return self._slot_of(index), route.words, route.head_groups

    def finish(self) -> None:
        """Lets the stream wait for what still goes on for it, and gives the inbox back."""
        at, stream, route = self._transport, self._stream, self._route
        at.behind(stream, at.pulls)
        for part in route.emptied if self._partials else route.over:
            self._driver.batch(self._at, part)
        if self._partials:
            at.behind(stream, at.pushes)
            self._partials.clear()
        at.ended(self._plan, self._slot, route.head_groups, stream)

    def _slot_of(self, index: int) -> Tensor:
        """(B * G, landing tokens, D + E)."""
        place = self._route.steps[index].place
        return self._landing if place is None else self._landing.as_strided(*place)
