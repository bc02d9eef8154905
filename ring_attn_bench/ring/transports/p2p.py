"""torch.distributed point-to-point messages: works on NCCL and gloo, on any topology."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.contract.tensors import part_of
from ring_attn_bench.errors import NoProcessGroup, RingBroken
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.transports.memory import FreshMemory
from ring_attn_bench.ring.transports.played import Part

KEPT = 256
"""Plans whose batches are kept at most."""


@dataclass(frozen=True, slots=True)
class _Gift:
    """Partials on their way: ours to their owners, and of our tokens into an inbox."""

    step: int
    works: list[dist.Work]
    partials: Tensor
    inbox: tuple[tuple[Range, Tensor], ...]


@dataclass(frozen=True, slots=True)
class _PlanParts:
    """What all passes of a plan have in common.

    slots: by step, the part of all landing areas that is its own. fetches: where in that they land.
    owners, readers: by step, whose keys come and who gets ours, by rank in the group.
    """

    plan: Plan
    slots: tuple[Range, ...]
    fetches: tuple[tuple[Range, ...], ...]
    owners: tuple[tuple[int, ...], ...]
    readers: tuple[tuple[int, ...], ...]


class P2PLink:
    """Each step is one batch of sends and receives, posted in the same order on every rank.

    A batch is a permutation of the ranks (or several), so batches in step order cannot deadlock.
    """

    def __init__(self, messages: Messages, kept: _PlanParts) -> None:
        self._messages, self._kept, self._plan = messages, kept, kept.plan
        self._works: dict[int, list[dist.Work]] = {}
        self._gifts: deque[_Gift] = deque()

    def publish(self, keys: Tensor) -> None:
        """Keeps the keys to send from, and makes the landing slots of the pass."""
        self._keys, plan = keys, self._plan
        self._landing = keys.new_empty((plan.slots * plan.landing_tokens, keys.shape[1]))

    def post(self, index: int) -> None:
        """One batch: what we owe in this step, and what we need."""
        kept, keys, landing = self._kept, self._keys, self._slot(index)
        sent = [part_of(keys, send.tokens, 0) for send in self._plan.steps[index].sends]
        received = [part_of(landing, at, 0) for at in kept.fetches[index]]
        to, by = kept.readers[index], kept.owners[index]
        self._works[index] = self._start("keys", index, to, sent, by, received)

    def landed(self, index: int) -> Tensor:
        """The step's slot, after its batch."""
        self._wait("keys", index, self._works.pop(index))
        return self._slot(index)

    def give(self, index: int, partials: Tensor) -> None:
        """The step's batch in the other direction."""
        kept = self._kept
        inbox = tuple(
            (send.tokens, partials.new_empty(len(send.tokens), partials.shape[1]))
            for send in self._plan.steps[index].sends
        )
        sent = [part_of(partials, at, 0) for at in kept.fetches[index]]
        received = [part for _, part in inbox]
        to, by = kept.owners[index], kept.readers[index]
        works = self._start("gradients", index, to, sent, by, received)
        self._gifts.append(_Gift(index, works, partials, inbox))

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """In step order, which is the same on every run."""
        while len(self._gifts) > outstanding:
            gift = self._gifts.popleft()
            self._wait("gradients", gift.step, gift.works)
            yield from gift.inbox

    def finish(self) -> None:
        """Waits for sends that no `landed` waited for."""
        for index, works in self._works.items():
            self._wait("keys", index, works)
        self._works.clear()

    def _start(
        self, what: str, index: int, to: tuple[int, ...], sent: list[Tensor],
        by: tuple[int, ...], received: list[Tensor],
    ) -> list[dist.Work]:  # fmt: skip
        if not sent and not received:
            return []
        try:
            return self._messages.batch(to, sent, by, received)
        except RuntimeError as error:
            raise self._broken(what, index, error) from error

    def _wait(self, what: str, index: int, works: list[dist.Work]) -> None:
        try:
            for work in works:
                work.wait()
        except RuntimeError as error:
            raise self._broken(what, index, error) from error

    def _broken(self, what: str, index: int, error: RuntimeError) -> RingBroken | NoProcessGroup:
        step = self._plan.steps[index]
        owners, readers = {f.owner for f in step.fetches}, {s.reader for s in step.sends}
        others = f"ranks {sorted(owners | readers)} (step {index} of {len(self._plan.steps) - 1})"
        return broken(f"{what} to pass between it and {others}", self._messages.group, error)

    def _slot(self, index: int) -> Tensor:
        return part_of(self._landing, self._kept.slots[index], 0)


class Messages:
    """A group's sends and receives, by its own methods.

    `torch.distributed.batch_isend_irecv` makes an object of each message, and looks at the group
    again for each: a third of a short ring's time on the host.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self._together: dict[torch.device, bool] = {}

    def batch(
        self, to: tuple[int, ...], sent: list[Tensor], by: tuple[int, ...], received: list[Tensor]
    ) -> list[dist.Work]:
        """Starts sends to, and receives by, ranks of the group: all at once where it can."""
        group, device = self.group, (sent or received)[0].device
        together = self._together.get(device)
        if together is None:
            together = self._together[device] = _coalesces(group, device)
        if together:
            group._start_coalescing(device)
        works = [group.send([x], rank, 0) for rank, x in zip(to, sent, strict=True)]
        works += [group.recv([x], rank, 0) for rank, x in zip(by, received, strict=True)]
        return [group._end_coalescing(device)] if together else works


def _coalesces(group: dist.ProcessGroup, device: torch.device) -> bool:
    """Whether a batch is one operation, as NCCL's are."""
    plain = type(group) is dist.ProcessGroup  # others promise no such thing
    return plain and bool(group._get_backend(device).supports_coalescing)


class P2P(FreshMemory):
    """torch.distributed's messages from rank to rank: NCCL or gloo, any number of hosts.

    Landing slots and inboxes are new in each pass too.
    """

    hands_on = True
    symmetric = False

    def __init__(
        self, group: dist.ProcessGroup, options: RingOptions, part: Part | None = None
    ) -> None:
        self._group, self._options = group, options
        self._messages = Messages(group)
        self._kept: dict[int, _PlanParts] = {}  # of plans, told by their identity
        self._part = part

    def played(self, part: Part) -> P2P:
        """The same between processes that play ranks of a larger ring, for their played plans."""
        return P2P(self._group, self._options, part)

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """None: every group can send and receive."""
        return None

    def begin(self, plan: Plan) -> P2PLink:
        """This rank's end of a pass."""
        messages = self._kept.get(id(plan))
        if messages is None:
            if plan.of_batch:  # made in less time than a message takes
                return P2PLink(self._messages, self._laid_out(plan))
            if len(self._kept) >= KEPT:
                self._kept.clear()
            messages = self._kept[id(plan)] = self._laid_out(plan)
        return P2PLink(self._messages, messages)

    def resume(self, plan: Plan) -> P2PLink:
        """As `begin`: nothing is posted but gradients."""
        return self.begin(plan)

    def _laid_out(self, plan: Plan) -> _PlanParts:
        starts = [(at - 1) % plan.slots * plan.landing_tokens for at in range(len(plan.steps))]
        slots = tuple(
            Range(start, start + step.landing_tokens)
            for start, step in zip(starts, plan.steps, strict=True)
        )
        fetches = tuple(tuple(fetch.landing for fetch in step.fetches) for step in plan.steps)
        process_of = range(plan.world_size) if self._part is None else self._part.process_of
        owners = tuple(tuple(process_of[x.owner] for x in step.fetches) for step in plan.steps)
        readers = tuple(tuple(process_of[x.reader] for x in step.sends) for step in plan.steps)
        return _PlanParts(plan, slots, fetches, owners, readers)
