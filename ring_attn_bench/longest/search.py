"""How the longest length is found: doubled until it fails, then halved between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records.status import Status


@dataclass(frozen=True)
class Attempt:
    """How an attempt at one length ended, and why, where it is not ok."""

    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Lengths:
    """The lengths that are tried: multiples of `least` up to `most`, tokens of each rank.

    share: of the longest one found, by which it may fall short of the longest that there is.
    """

    least: int
    most: int
    share: float

    def __post_init__(self) -> None:
        if self.most < self.least:
            raise InvalidArgument(
                f"the longest length to try is {self.most} tokens and the shortest {self.least}; "
                "the longest must be at least as long."
            )

    @property
    def multiples(self) -> int:
        """How many lengths there are."""
        return self.most // self.least


@dataclass(frozen=True)
class Longest:
    """The longest length that went well, and how the shortest that did not ended.

    longest: None where none went well. failed_at: None where all did.
    """

    longest: int | None
    failed_at: int | None
    ended: Attempt
    tried: int


def search(attempt: Callable[[int], Attempt], lengths: Lengths) -> Longest:
    """Takes it that what fails at a length fails at every longer one."""
    good, bad, tried = 0, lengths.multiples + 1, 0
    ended = Attempt(Status.OK)
    while bad - good > 1 and (bad > lengths.multiples or bad - good > lengths.share * good):
        at = _next(good, bad, lengths.multiples)
        one, tried = attempt(at * lengths.least), tried + 1
        if one.status is Status.OK:
            good = at
        else:
            bad, ended = at, one
    failed = None if bad > lengths.multiples else bad * lengths.least
    return Longest(good * lengths.least or None, failed, ended, tried)


def _next(good: int, bad: int, most: int) -> int:
    """Twice as long until something has failed; then the middle."""
    if bad > most:
        return min(max(1, 2 * good), most)
    return (good + bad) // 2
