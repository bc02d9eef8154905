"""Schedules by name: how keys of other ranks come, and all that is known of each of these ways.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

Name = Literal["auto", "steps", "grouped", "gather", "one_launch"]
"""`auto`, and the table's: type checkers read no table."""
Grouping = tuple[int, ...] | None
"""How many ranks' keys each step brings; None is one each."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One way for keys to come.

    means: it, in words. fits: whether it is what a grouping says.
    limit: the most ranks that a step brings, by the step, from 0 on, and how many others there are.
    waits: whether it is one launch, own keys first, which waits for the others' as they arrive.
    weighed: whether `auto` may take it for its time, where the machine's figures are known.
    """

    means: str
    fits: Callable[[Grouping], bool]
    limit: Callable[[int, int], int]
    waits: bool = False
    weighed: bool = True

    def limits(self, others: int) -> Iterator[int]:
        """The most ranks that a step brings, step after step."""
        return (self.limit(step, others) for step in count())

    def grouping(self, others: int) -> Grouping:
        """That of so many other ranks where nothing else limits it."""
        if self.fits(None):
            return None
        sizes: list[int] = []
        for limit in self.limits(others):
            if not (left := others - sum(sizes)):
                break
            sizes.append(min(left, limit))
        return tuple(sizes)


def _at_once(grouping: Grouping) -> bool:
    return grouping is not None and len(grouping) <= 1


SCHEDULES: Mapping[Name, Schedule] = {
    "steps": Schedule(
        "one rank's keys a step",
        fits=lambda grouping: grouping is None or all(size == 1 for size in grouping),
        limit=lambda step, others: 1,
    ),
    "gather": Schedule(
        "all other ranks' keys in one step",
        fits=_at_once,
        limit=lambda step, others: others,
    ),
    "grouped": Schedule(
        "a number of ranks for each step",
        fits=lambda grouping: grouping is not None,
        # a step's launch hides the next one's transfer, in log2(W) launches
        limit=lambda step, others: 2**step,
    ),
    "one_launch": Schedule(
        "all ranks' keys in one launch",
        fits=_at_once,
        limit=lambda step, others: others,
        waits=True,
        weighed=False,  # it is the rule's where it can be
    ),
}
"""A grouping alone is the first that it fits and that does not wait."""


def named(grouping: Grouping) -> Name:
    """The schedule that a grouping is."""
    return next(name for name, x in SCHEDULES.items() if not x.waits and x.fits(grouping))


def ruled(*, waits: bool) -> Name:
    """What `auto` is where nothing else is known; waits: whether kernel and transport let it."""
    return next(name for name, x in SCHEDULES.items() if x.waits == waits)
