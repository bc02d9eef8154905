"""A block's rows and keys as kernels take them: two lines of places, and the band between them.

A kernel takes rows, and keys, in one chunk or two: a zigzag rank's tokens, or what it fetched from
another. Blocks of more chunks are cut here into blocks that fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.lower import Cut
from ring_attn_bench.plan.positions import Range, Span, Spans

FAR = 2**30
"""Beyond every place: an open side of a band, where nothing nearer is known."""


@dataclass(frozen=True, slots=True)
class Line:
    """`count` tokens, those before `split` at places 0, 1, ..., the others at their index + `jump`.

    start: the position of place 0.
    """

    count: int
    split: int
    jump: int
    start: int

    @classmethod
    def of(cls, spans: Spans, step: int) -> Line:
        """The line of at most two spans, whose distance `step` divides."""
        if not spans:
            return cls(0, 0, 0, 0)
        first, *others = spans
        if not others:
            return cls(first.count, first.count, 0, first.start)
        (second,) = others
        jump = (second.start - first.start) // step - first.count
        return cls(first.count + second.count, first.count, jump, first.start)

    @property
    def chunks(self) -> tuple[int, int]:
        """How many tokens are in each chunk."""
        return self.split, self.count - self.split

    @property
    def hull(self) -> Range:
        """The places from the first to the last."""
        second = self.split + self.jump
        starts = [0] * (self.split > 0) + [second] * (self.count > self.split)
        stops = [self.split] + [self.count + self.jump] * (self.count > self.split)
        return Range(min(starts, default=0), max(stops))


@dataclass(frozen=True, slots=True)
class Places:
    """What a kernel knows of a block: a row at place i sees a key at j iff low <= i - j <= high.

    step: how many positions there are from one place to the next.
    """

    rows: Line
    keys: Line
    low: int
    high: int
    step: int

    @classmethod
    @lru_cache(maxsize=1024)  # a ring asks again in every layer: 8 us of the host's time
    def of(cls, block: Block, *, positions: bool) -> Places:
        """Those of a block that `pieces` made; counted by index where positions are not needed."""
        rows, keys, band = block.rows, block.keys, block.band
        if not positions and block.index_band is not None:
            band = block.index_band
            rows, keys = (Span(0, block.row_count),), (Span(0, block.key_count),)
        step = _step(rows + keys)
        line, other = Line.of(rows, step), Line.of(keys, step)
        # an open side is closed where it binds no pair, and far sides there, to stay in 32 bits
        nearest = line.hull.start - other.hull.stop
        farthest = line.hull.stop - other.hull.start
        ahead = line.start - other.start
        low = nearest if band.low is None else -((ahead - band.low) // step)
        high = farthest if band.high is None else (band.high - ahead) // step
        return cls(
            line, other, min(max(low, nearest), farthest), max(min(high, farthest), nearest), step
        )

    @property
    def chunked(self) -> bool:
        """Whether rows or keys are in two chunks."""
        return any(line.split < line.count for line in (self.rows, self.keys))


def pieces(block: Block, *, positions: bool) -> tuple[Cut, ...]:
    """The block in parts that fit on two lines: as one, unless it has many chunks.

    positions: whether a bias or dropout needs the positions, or only the mask does.
    """
    if block.index_band is not None and not positions:
        return (Cut(Range(0, block.row_count), Range(0, block.key_count), block),)
    step = _step(block.rows + block.keys)
    nothing = ((Range(0, 0), ()),)
    keys = tuple(_fitting(block.keys, step)) or nothing
    return tuple(
        Cut(at, of, Block(rows, spans, block.band))
        for at, rows in tuple(_fitting(block.rows, step)) or nothing
        for of, spans in keys
    )


def _fitting(spans: Spans, step: int) -> Iterator[tuple[Range, Spans]]:
    """One span or two at a time, with the indices of their tokens."""
    left, at = _joined(spans), 0
    while left:
        two = len(left) > 1 and (left[1].start - left[0].start) % step == 0
        taken, left = left[: 1 + two], left[1 + two :]
        count = sum(span.count for span in taken)
        yield Range(at, at + count), taken
        at += count


def _joined(spans: Spans) -> Spans:
    """Spans that go on where the one before them ends are one."""
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        if before and before.step == span.step and span.start == before.last + span.step:
            joined[-1] = Span(before.start, before.count + span.count, span.step)
        else:
            joined.append(span)
    return tuple(joined)


def _step(spans: Spans) -> int:
    """The step of all spans; one token has any."""
    steps = {span.step for span in spans if span.count > 1}
    if len(steps) > 1:
        raise ValueError(f"spans of the steps {sorted(steps)} have no line of places")
    return steps.pop() if steps else 1
