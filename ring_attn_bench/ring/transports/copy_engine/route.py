"""What all passes of a plan over one slot have in common, laid out once: nothing but numbers moves.

Batches and copies as the driver takes them. Where a pass's landing slots and partials lie is all
that a copy still has to be told.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.transports.copy_engine.memory_operations import LineCopy, Operations
from ring_attn_bench.ring.transports.copy_engine.programme import Move, Programme

if TYPE_CHECKING:
    from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine

MOST_HEAD_GROUPS = 4
"""Parts that the heads of a piece arrive in, at most."""
SMALLEST = 4 << 20
"""Bytes of a part, at least."""
Parts = tuple[Operations, ...]


class Pull(NamedTuple):
    """A copy into a step's landing slot, at so many bytes, and what follows it."""

    lines: LineCopy
    at: int
    after: Parts


class Pulls(NamedTuple):
    """Those of a step, and what comes before them.

    slot, place: where they land, in bytes, and as a view (B * G, tokens, D + E) of all slots; None
    is all of the only one.
    landed: an event behind them, where no words tell a launch; it is recorded again and again.
    """

    before: Parts
    pulls: tuple[Pull, ...]
    slot: int
    place: tuple[tuple[int, int, int], tuple[int, int, int], int] | None
    landed: torch.cuda.Event | None


class Push(NamedTuple):
    """A copy to an address from partials, at so many bytes of them, and what follows it."""

    to: int
    at: int
    size: int
    after: Parts


class Gifts(NamedTuple):
    """By step: what comes before its pushes, they, and what the step's readers give."""

    before: tuple[Parts, ...]
    pushes: tuple[tuple[Push, ...], ...]
    inbox: tuple[tuple[tuple[Range, Tensor], ...], ...]


class Home:
    """The way of gradients, which is the same whichever slot keys left from."""

    def __init__(self, plan: Plan, made: Programme) -> None:
        self.plan = plan
        self._pushes = made.pushes
        self.taken = tuple(batch.laid_out() for batch in made.taken)
        self.emptied = made.emptied.laid_out()
        self._gifts: tuple[object, Gifts] | None = None

    def gifts(self, at: CopyEngine, like: Tensor) -> Gifts:
        """Of partials (tokens, width) as `like`; makes room in the inboxes, on all ranks alike."""
        kind = like.shape[1], like.dtype
        if self._gifts is None or self._gifts[0] != kind:
            self._gifts = kind, _gifts(at, self.plan, self._pushes, like)
        return self._gifts[1]


class Route(Home):
    """Of keys (B * G, N, D + E), by heads, in a slot. The operations are `Programme`'s."""

    def __init__(self, at: CopyEngine, plan: Plan, slot: int, keys: Tensor) -> None:
        heads, _, unit = keys.shape
        row = unit * keys.element_size()
        self.landing_shape = plan.slots * heads, plan.landing_tokens, unit
        self.head_groups = head_groups(plan, heads, row)
        self.words = at.words_of(slot)
        made = at.programme(plan, slot, self.head_groups)
        super().__init__(plan, made)
        self.meet, self.nothing_read = made.meet.laid_out(), made.nothing_read.laid_out()
        self.over = made.over.laid_out()
        self.steps = tuple(
            _pulls(at, plan, index, slot, made, (heads, unit, row), self.head_groups)
            for index in range(len(plan.steps))
        )


def head_groups(plan: Plan, heads: int, row: int) -> int:
    """In how many parts pieces come: as many as leave each of them big enough.

    row: bytes of a token of a head. A copy takes 7 us beside its bytes (measured on an H200), as
    long as 2.5 MiB do.
    """
    steps = (step for step in plan.steps if step.gathered is not None)
    tokens = min((len(fetch.tokens) for step in steps for fetch in step.fetches), default=0)
    groups = 1
    while (
        2 * groups <= MOST_HEAD_GROUPS
        and heads % (2 * groups) == 0
        and heads * tokens * row >= 2 * groups * SMALLEST
    ):
        groups *= 2
    return groups


def _pulls(
    at: CopyEngine, plan: Plan, index: int, slot: int, made: Programme,
    sizes: tuple[int, int, int], groups: int,
) -> Pulls:  # fmt: skip
    step, moves = plan.steps[index], made.pulls[index]
    heads, unit, row = sizes
    tokens, lines = step.landing_tokens, heads // groups
    pitch, source_pitch = tokens * row, plan.tokens * row
    pulls = []
    for move, after in zip(moves, _after(moves), strict=True):
        fetch, head = move.fetch, move.head_group * lines
        source = at.outgoing_of(fetch.owner, slot) + fetch.tokens.start * row + head * source_pitch
        copy = LineCopy(at.driver, source, source_pitch, pitch, len(fetch.tokens) * row, lines)
        pulls.append(Pull(copy, fetch.at * row + head * pitch, after))
    start = (index - 1) % plan.slots * heads * plan.landing_tokens
    is_all = plan.slots == 1 and tokens == plan.landing_tokens
    place = (heads, tokens, unit), (tokens * unit, unit, 1), start * unit
    return Pulls(
        _before(moves), tuple(pulls), start * row, None if is_all else place,
        at.event() if index and (step.gathered is None or at.shares_gpu) else None,
    )  # fmt: skip


def _gifts(at: CopyEngine, plan: Plan, pushes: tuple[tuple[Move, ...], ...], like: Tensor) -> Gifts:
    row = like.shape[1] * like.element_size()
    at.reserve_inbox(plan.tokens * row)

    def push(move: Move, after: Parts) -> Push:
        fetch = move.fetch
        to = at.inbox_of(fetch.owner) + fetch.tokens.start * row
        return Push(to, fetch.at * row, len(fetch.tokens) * row, after)

    return Gifts(
        tuple(_before(moves) for moves in pushes),
        tuple(tuple(map(push, moves, _after(moves))) for moves in pushes),
        tuple(
            tuple((x.tokens, at.inbox_part(x.reader, x.tokens, like)) for x in step.sends)
            for step in plan.steps
        ),
    )


def _before(moves: tuple[Move, ...]) -> Parts:
    return moves[0].before.laid_out() if moves else ()


def _after(moves: tuple[Move, ...]) -> list[Parts]:
    """What follows each copy: all that lies between it and the next one, as one batch."""
    between = [this.after.then(following.before) for this, following in pairwise(moves)]
    return [batch.laid_out() for batch in (*between, *(move.after for move in moves[-1:]))]
