"""torch.distributed point-to-point messages: works on NCCL and gloo, on any topology."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.errors import RingBroken
from ring_attn_bench.plan import Fetch, Plan, Send
from ring_attn_bench.positions import Range
from ring_attn_bench.ring.broken import broken
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.transports.memory import FreshMemory
from ring_attn_bench.ring.transports.played import Part
from ring_attn_bench.tensors import part_of

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
class _Kept:
    """What all passes of a plan have in common; batches lack their tensors between passes.

    slots: by step, the part of all landing areas that is its own. fetches: where in that they land.
    """

    plan: Plan
    slots: tuple[Range, ...]
    fetches: tuple[tuple[Range, ...], ...]
    batches: dict[tuple[str, int], list[dist.P2POp]]


class P2PLink:
    """Each step is one batch of sends and receives, posted in the same order on every rank.

    A batch is a permutation of the ranks (or several), so batches in step order cannot deadlock.
    """

    def __init__(self, group: dist.ProcessGroup, peers: list[int], kept: _Kept) -> None:
        self._group, self._peers, self._kept, self._plan = group, peers, kept, kept.plan
        self._works: dict[int, list[dist.Work]] = {}
        self._gifts: deque[_Gift] = deque()

    def publish(self, keys: Tensor) -> None:
        """Keeps the keys to send from, and makes the landing slots of the pass."""
        self._keys, plan = keys, self._plan
        self._landing = keys.new_empty((plan.slots * plan.landing_tokens, keys.shape[1]))

    def post(self, index: int) -> None:
        """One batch: what we owe in this step, and what we need."""
        step, keys, landing = self._plan.steps[index], self._keys, self._slot(index)
        sends = [part_of(keys, send.tokens, 0) for send in step.sends]
        receives = [part_of(landing, at, 0) for at in self._kept.fetches[index]]
        self._works[index] = self._start("keys", index, step.sends, sends, step.fetches, receives)

    def landed(self, index: int) -> Tensor:
        """The step's slot, after its batch."""
        self._wait("keys", index, self._works.pop(index))
        return self._slot(index)

    def give(self, index: int, partials: Tensor) -> None:
        """The step's batch in the other direction."""
        step = self._plan.steps[index]
        inbox = tuple(
            (send.tokens, partials.new_empty(len(send.tokens), partials.shape[1]))
            for send in step.sends
        )
        gives = [part_of(partials, at, 0) for at in self._kept.fetches[index]]
        takes = [part for _, part in inbox]
        works = self._start("gradients", index, step.fetches, gives, step.sends, takes)
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
        self, what: str, index: int, to: tuple[Fetch | Send, ...], sent: list[Tensor],
        by: tuple[Fetch | Send, ...], received: list[Tensor],
    ) -> list[dist.Work]:  # fmt: skip
        """to, by: for each tensor, what it is of, and so whose."""
        if not sent and not received:
            return []
        batch = self._kept.batches.get((what, index))
        if batch is None:
            group, peers = self._group, self._peers
            batch = [
                dist.P2POp(operation, tensor, peers[_peer(one)], group)
                for operation, ones, tensors in (
                    (dist.isend, to, sent), (dist.irecv, by, received),
                )
                for one, tensor in zip(ones, tensors, strict=True)
            ]  # fmt: skip
            self._kept.batches[what, index] = batch
        else:
            for message, tensor in zip(batch, (*sent, *received), strict=True):
                message.tensor = tensor
        try:
            works: list[dist.Work] = dist.batch_isend_irecv(batch)
        except RuntimeError as error:
            raise self._broken(what, index, error) from error
        finally:
            for message in batch:  # or it would hold memory until the next pass
                message.tensor = None  # type: ignore[assignment]
        return works

    def _wait(self, what: str, index: int, works: list[dist.Work]) -> None:
        try:
            for work in works:
                work.wait()
        except RuntimeError as error:
            raise self._broken(what, index, error) from error

    def _broken(self, what: str, index: int, error: RuntimeError) -> RingBroken:
        step = self._plan.steps[index]
        owners, readers = {f.owner for f in step.fetches}, {s.reader for s in step.sends}
        others = f"ranks {sorted(owners | readers)} (step {index} of {len(self._plan.steps) - 1})"
        return broken(f"{what} to pass between it and {others}", self._group, error)

    def _slot(self, index: int) -> Tensor:
        return part_of(self._landing, self._kept.slots[index], 0)


def _peer(one: Fetch | Send) -> int:
    return one.owner if isinstance(one, Fetch) else one.reader


class P2P(FreshMemory):
    """torch.distributed's messages from rank to rank: NCCL or gloo, any number of hosts.

    Landing slots and inboxes are new in each pass too.
    """

    def __init__(
        self, group: dist.ProcessGroup, options: RingOptions, part: Part | None = None
    ) -> None:
        self._group, self._options = group, options
        self._kept: dict[int, _Kept] = {}  # of plans, told by their identity
        processes = dist.get_process_group_ranks(group)
        self._peers = processes if part is None else [processes[at] for at in part.process_of]

    def played(self, part: Part) -> P2P:
        """The same between processes that play ranks of a larger ring, for their played plans."""
        return P2P(self._group, self._options, part)

    @staticmethod
    def unsupported(group: dist.ProcessGroup) -> str | None:
        """None: every group can send and receive."""
        return None

    def begin(self, plan: Plan) -> P2PLink:
        """This rank's end of a pass."""
        found = self._kept.get(id(plan))
        if found is None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            starts = [(at - 1) % plan.slots * plan.landing_tokens for at in range(len(plan.steps))]
            found = self._kept[id(plan)] = _Kept(
                plan,
                tuple(
                    Range(start, start + step.landing_tokens)
                    for start, step in zip(starts, plan.steps, strict=True)
                ),
                tuple(tuple(fetch.landing for fetch in step.fetches) for step in plan.steps),
                {},
            )
        return P2PLink(self._group, self._peers, found)
