"""Global token positions as arithmetic progressions, and the distances that a mask allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open range of token indices [start, stop) in some local storage."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def shifted(self, by: int) -> Range:
        """The same range, `by` tokens further on."""
        return Range(self.start + by, self.stop + by)

    @property
    def slice(self) -> slice:
        """For indexing a tensor's token dim."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Span:
    """The global positions start, start + step, ... of `count` tokens that are stored in a row."""

    start: int
    count: int
    step: int = 1

    def part(self, tokens: Range) -> Span:
        """The positions of the tokens in `tokens`, an index range inside this span."""
        return Span(self.start + tokens.start * self.step, len(tokens), self.step)

    @property
    def last(self) -> int:
        """The position of the last token."""
        return self.start + (self.count - 1) * self.step

    def positions(self) -> range:
        """The positions one by one."""
        return range(self.start, self.start + self.count * self.step, self.step)


Spans = tuple[Span, ...]


def count(spans: Spans) -> int:
    """The number of tokens in `spans`."""
    return sum(span.count for span in spans)


def part(spans: Spans, tokens: Range) -> Spans:
    """The spans of the stored tokens in `tokens`, an index range over all of `spans` in a row."""
    parts, offset = [], 0
    for span in spans:
        inside = Range(max(0, tokens.start - offset), min(span.count, tokens.stop - offset))
        if len(inside):
            parts.append(span.part(inside))
        offset += span.count
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Band:
    """Allowed distances: query at position i may see key at position j iff low <= i - j <= high.

    None leaves a side open. In global positions this is a causal mask (low = 0), a sliding window
    (low = -right, high = left) or both; in indices of one block it is what is left of them there.
    """

    low: int | None = None
    high: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether every pair is allowed."""
        return self.low is None and self.high is None

    @property
    def is_empty(self) -> bool:
        """Whether no pair is allowed: a narrow window can fall between two stripes."""
        return self.low is not None and self.high is not None and self.low > self.high

    def allows(self, distance: int) -> bool:
        """Whether a query may see a key that stands `distance` tokens before it."""
        above = self.low is None or distance >= self.low
        return above and (self.high is None or distance <= self.high)

    def shifted(self, by: int) -> Band:
        """The band in indices whose distances are `by` larger."""
        return Band(
            None if self.low is None else self.low + by,
            None if self.high is None else self.high + by,
        )

    def between(self, rows: Span, keys: Span) -> Band:
        """This band in indices of `rows` and `keys`: pair (i, j) is allowed iff it allows i - j.

        Sides that bind no pair of the two spans are opened. Both spans must have one step, which
        that of a single token need not be.
        """
        if rows.step != keys.step and rows.count > 1 and keys.count > 1:
            raise ValueError(f"spans of steps {rows.step} and {keys.step} have no band of indices")
        offset, step = rows.start - keys.start, keys.step if rows.count == 1 else rows.step
        # low <= offset + step * (i - j) <= high, solved for i - j in integers
        low = None if self.low is None else -((offset - self.low) // step)
        high = None if self.high is None else (self.high - offset) // step
        return Band(
            None if low is None or low <= 1 - keys.count else low,
            None if high is None or high >= rows.count - 1 else high,
        )

    def visible_rows(self, rows: int, keys: int) -> Range:
        """The rows of a rows x keys block of indices that see at least one key."""
        if self.is_empty:
            return Range(0, 0)
        start = 0 if self.low is None else max(0, self.low)
        stop = rows if self.high is None else min(rows, keys + self.high)
        return Range(start, max(start, stop))

    def visible_keys(self, rows: int, keys: int) -> Range:
        """The keys of a rows x keys block of indices that at least one row sees."""
        if self.is_empty:
            return Range(0, 0)
        start = 0 if self.high is None else max(0, -self.high)
        stop = keys if self.low is None else min(keys, rows - self.low)
        return Range(start, max(start, stop))

    def area(self, rows: int, keys: int) -> int:
        """The number of allowed pairs in a rows x keys block of indices."""
        if self.is_empty:
            return 0
        return _below(self.high, rows, keys) - _below(
            None if self.low is None else self.low - 1, rows, keys, open_value=0
        )


def _below(bound: int | None, rows: int, keys: int, open_value: int | None = None) -> int:
    """The number of pairs with i - j <= bound, 0 <= i < rows, 0 <= j < keys."""
    if bound is None:
        return rows * keys if open_value is None else open_value
    # Row i has the keys j >= i - bound. Rows up to `bound` have all; then one fewer each.
    whole = min(rows, max(0, bound + 1))
    first, last = whole, min(rows, keys + bound)  # rows with some keys but not all
    partial = max(0, last - first)
    return whole * keys + partial * keys - sum_range(first - bound, first - bound + partial)


def sum_range(start: int, stop: int) -> int:
    """start + (start + 1) + ... + (stop - 1)."""
    return (stop - start) * (start + stop - 1) // 2
