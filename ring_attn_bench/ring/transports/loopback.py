"""All ranks in one process: for tests, for a ring of 4 on one GPU, and for W = 64 on a laptop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.transports.memory import FreshMemory


class Loopback(FreshMemory):
    """A board on which the ranks of one pass put up keys and partial gradients, by owner."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.partials: dict[int, list[tuple[Range, Tensor]]] = {}

    def begin(self, plan: Plan) -> LoopbackLink:
        """The end of the plan's rank."""
        return LoopbackLink(self, plan)

    def resume(self, plan: Plan) -> LoopbackLink:
        """As `begin`: nothing is posted but gradients."""
        return self.begin(plan)


class LoopbackLink:
    """One rank's end of a board: all ranks publish before one runs, and run before one collects."""

    def __init__(self, board: Loopback, plan: Plan) -> None:
        self._board, self._plan = board, plan

    def publish(self, keys: Tensor) -> None:
        """Puts the keys up."""
        self._board.keys[self._plan.rank] = keys

    def post(self, index: int) -> None:
        """Nothing to start: `landed` copies."""

    def landed(self, index: int) -> Tensor:
        """A copy of the owners' keys."""
        fetches = self._plan.steps[index].fetches
        if not fetches:
            return self._board.keys[self._plan.rank][:0]
        return torch.cat([self._board.keys[f.owner][f.tokens.slice] for f in fetches])

    def give(self, index: int, partials: Tensor) -> None:
        """Puts the partials up for their owners."""
        for fetch in self._plan.steps[index].fetches:
            given = self._board.partials.setdefault(fetch.owner, [])
            given.append((fetch.tokens, partials[fetch.landing.slice]))

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """Everything that is up, once all ranks have run: in the order of their ranks."""
        if outstanding == 0:
            yield from self._board.partials.pop(self._plan.rank, [])

    def finish(self) -> None:
        """Nothing is ever on its way."""
