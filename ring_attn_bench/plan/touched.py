"""Which of the launches that touch a range is the first there, and which the last."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ring_attn_bench.plan.positions import Range


def first_flags(ranges: list[Range], length: int) -> tuple[list[bool], bool]:
    """For each range whether nothing before it touched it, and whether storage must start at zero.

    It must where a range is touched only in part, or where something is never touched; then no
    range counts as first.
    """
    flags, touched, total = [], Touched(), 0
    for wanted in ranges:
        fresh = len(wanted) - touched.add(wanted)
        if 0 < fresh < len(wanted):
            return [False] * len(ranges), True
        flags.append(fresh > 0)
        total += fresh
    return (flags, False) if total == length else ([False] * len(ranges), True)


def last_flags(ranges: list[Range]) -> list[bool]:
    """For each range whether nothing after it touches any of it."""
    touched = Touched()
    return [touched.add(wanted) == 0 for wanted in reversed(ranges)][::-1]


class Touched:
    """Tokens that ranges have touched, as ranges apart from each other: there may be thousands."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def has(self, tokens: Range) -> bool:
        """Whether any of them was touched."""
        at = bisect_right(self._stops, tokens.start)
        return at < len(self._starts) and self._starts[at] < tokens.stop

    def add(self, tokens: Range) -> int:
        """Adds them, and says how many of them were touched before."""
        start, stop = tokens.start, tokens.stop
        first, behind = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        near = list(zip(self._starts[first:behind], self._stops[first:behind], strict=True))
        before = sum(min(stop, b) - max(start, a) for a, b in near)
        self._starts[first:behind] = [min(start, near[0][0]) if near else start]
        self._stops[first:behind] = [max(stop, near[-1][1]) if near else stop]
        return before


def without(whole: Range, taken: list[Range]) -> tuple[Range, ...]:
    """The ranges that are left of a whole one where others are taken."""
    left = [whole]
    for t in taken:
        left = [
            piece
            for r in left
            for piece in (Range(r.start, min(r.stop, t.start)), Range(max(r.start, t.stop), r.stop))
            if len(piece)
        ]
    return tuple(left)
