"""One rank's end of a pass over symmetric memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ring_attn_bench.plan import Plan
from ring_attn_bench.positions import Range

if TYPE_CHECKING:
    from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine

MOST_HEAD_GROUPS = 4
"""Parts that the heads of a piece arrive in, at most."""
SMALLEST = 4 << 20
"""Bytes of a part, at least."""


class CopyEngineLink:
    """Pulls what the plan fetches, and pushes gradients to their owners' inboxes.

    Nothing that is waited for on the stream of the launches is enqueued behind them, and copies
    take no multiprocessor: so a launch may itself wait for what `arriving` says.
    """

    def __init__(
        self, transport: CopyEngine, plan: Plan, slot: int, stream: torch.cuda.Stream
    ) -> None:
        self._transport, self._plan, self._slot, self._stream = transport, plan, slot, stream
        self._landed: dict[int, torch.cuda.Event] = {}
        self._gifts: deque[int] = deque()
        self._partials: list[Tensor] = []

    def publish(self, keys: Tensor) -> None:
        """Tells the others that the keys are there, and lets both streams wait for all of them.

        From there on nothing is left but copies; and a copy needs nobody. keys (B * G, N, D + E):
        by heads. Makes the landing slots.
        """
        plan, at, stream = self._plan, self._transport, self._stream.cuda_stream
        self._heads, _, unit = keys.shape
        self._unit = unit * keys.element_size()
        self._landing = keys.new_empty(plan.slots, self._heads * plan.landing_tokens * unit)
        self._groups = self._head_groups()
        self._programme = at.programme(plan, self._slot, self._groups)
        self._programme.meet.enqueue(stream)
        at.pulls.wait_event(self._stream.record_event())
        self._programme.nothing_read.enqueue(at.pulls.cuda_stream)

    def post(self, index: int) -> None:
        """Enqueues the step's pulls; a landing slot that was in use is waited for."""
        at, plan = self._transport, self._plan
        step, stream = plan.steps[index], at.pulls.cuda_stream
        if index > plan.slots:
            at.pulls.wait_event(self._stream.record_event())
        landing = self._landing[(index - 1) % plan.slots].data_ptr()
        pitch, source_pitch = step.landing_tokens * self._unit, plan.tokens * self._unit
        heads = self._heads // self._groups
        for move in self._programme.pulls[index]:
            fetch, head = move.fetch, move.head_group * heads
            source = at.outgoing_of(fetch.owner, self._slot) + fetch.tokens.start * self._unit
            move.before.enqueue(stream)
            at.driver.copy_lines(
                stream,
                (landing + fetch.at * self._unit + head * pitch, pitch),
                (source + head * source_pitch, source_pitch),
                len(fetch.tokens) * self._unit,
                heads,
            )
            move.after.enqueue(stream)
        if step.gathered is None or at.shares_gpu:
            self._landed[index] = at.pulls.record_event()

    def landed(self, index: int) -> Tensor:
        """The step's slot, when its pulls are done."""
        if index in self._landed:
            self._stream.wait_event(self._landed[index])
        return self._slot_of(index)

    def arriving(self, index: int) -> tuple[Tensor, Tensor | None, int]:
        """The step's slot at once, the words that its launch is to wait for, and head groups.

        Without words where a piece comes from this same GPU: a copy inside a GPU takes
        multiprocessors, which a launch that waits for it might hold.
        """
        step, at = self._plan.steps[index], self._transport
        if at.shares_gpu or not step.fetches:
            return self.landed(index), None, 1
        return self._slot_of(index), at.words_of(self._slot), self._groups

    def give(self, index: int, partials: Tensor) -> None:
        """Enqueues copies into the owners' inboxes, behind what this stream has done."""
        at, row = self._transport, partials.shape[1] * partials.element_size()
        at.reserve_inbox(self._plan.tokens * row)
        at.pushes.wait_event(self._stream.record_event())
        stream = at.pushes.cuda_stream
        for move in self._programme.pushes[index]:
            fetch = move.fetch
            source = partials.data_ptr() + fetch.at * row
            move.before.enqueue(stream)
            at.driver.copy(
                stream, at.inbox_of(fetch.owner) + fetch.tokens.start * row, source,
                len(fetch.tokens) * row,
            )  # fmt: skip
            move.after.enqueue(stream)
        self._gifts.append(index)
        self._partials.append(partials)

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """In step order, which is the same on every run."""
        while len(self._gifts) > outstanding:
            index = self._gifts.popleft()
            self._programme.taken[index].enqueue(self._stream.cuda_stream)
            like = self._partials[-1]
            for send in self._plan.steps[index].sends:
                yield send.tokens, self._transport.inbox_part(send.reader, send.tokens, like)

    def finish(self) -> None:
        """Lets the stream wait for what still goes on for it, and gives the inbox back."""
        at, stream = self._transport, self._stream
        stream.wait_event(at.pulls.record_event())
        if self._partials:
            self._programme.emptied.enqueue(stream.cuda_stream)
            stream.wait_event(at.pushes.record_event())
            self._partials.clear()
        else:
            self._programme.over.enqueue(stream.cuda_stream)
        at.ended(self._plan, self._slot, self._groups, stream)

    def _slot_of(self, index: int) -> Tensor:
        tokens = self._plan.steps[index].landing_tokens
        slot = self._landing[(index - 1) % self._plan.slots]
        unit = self._unit // slot.element_size()
        return slot[: self._heads * tokens * unit].view(self._heads, tokens, unit)

    def _head_groups(self) -> int:
        """In how many parts pieces come: as many as leave each of them big enough.

        A copy takes 7 us beside its bytes (measured on an H200), as long as 2.5 MiB do.
        """
        steps = (step for step in self._plan.steps if step.gathered is not None)
        tokens = min((len(fetch.tokens) for step in steps for fetch in step.fetches), default=0)
        groups = 1
        while (
            2 * groups <= MOST_HEAD_GROUPS
            and self._heads % (2 * groups) == 0
            and self._heads * tokens * self._unit >= 2 * groups * SMALLEST
        ):
            groups *= 2
        return groups
