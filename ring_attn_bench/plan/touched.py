"""Which of the launches that touch a range is the first there, and which the last."""

from __future__ import annotations

from ring_attn_bench.plan.positions import Range


def first_flags(ranges: list[Range], length: int) -> tuple[list[bool], bool]:
    """For each range whether nothing before it touched it, and whether storage must start at zero.

    It must where a range is touched only in part, or where something is never touched; then no
    range counts as first.
    """
    left: tuple[Range, ...] = (Range(0, length),)
    flags = []
    for wanted in ranges:
        rest = tuple(piece for part in left for piece in without(part, [wanted]))
        taken = sum(map(len, left)) - sum(map(len, rest))
        if 0 < taken < len(wanted):
            return [False] * len(ranges), True
        flags.append(taken > 0)
        left = rest
    return (flags, False) if not left else ([False] * len(ranges), True)


def last_flags(ranges: list[Range]) -> list[bool]:
    """For each range whether nothing after it touches any of it."""
    return [
        all(without(wanted, [later]) == (wanted,) for later in ranges[index + 1 :])
        for index, wanted in enumerate(ranges)
    ]


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
