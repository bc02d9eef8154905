"""All ranks in one process: for tests, for a ring of 4 on one GPU, and for W = 64 on a laptop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ring_attn_bench.plan import Plan
from ring_attn_bench.positions import Range


@dataclass(slots=True)
class Board:
    """What the ranks of one pass have put up: keys by owner, partial gradients by owner."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    partials: dict[int, list[tuple[Range, Tensor]]] = field(default_factory=dict)


class LoopbackLink:
    """One rank's end of a board: all ranks publish before one runs, and run before one collects."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def publish(self, keys: Tensor, plan: Plan) -> None:
        """Puts the keys up."""
        self._plan = plan
        self._board.keys[plan.rank] = keys

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
