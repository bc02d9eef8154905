"""Documents of a ring as packed calls: segments, each of which is a plain attention by itself.

A kernel that takes packed documents takes any segments of queries and keys, under one mask that
counts from where a segment's last query meets its last key. So what a rank's rows see is cut into
segments that need no other mask than these:

    open      every row sees every key
    causal    row i sees the keys up to i, the last row all; tokens of a window's left edge are
              given from the last to the first, which makes that edge the same
    window    the call's own, of rows and keys around one place

Rows and keys are gathered for a call, so that a segment's need not lie in a row, and keys may be in
several segments. How many calls there are follows from partition and mask, never from how many
documents there are.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.lower import Chunk, Cut, by_document, trimmed
from ring_attn_bench.plan.positions import Band, Range, Span
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.plan.touched import Touched

COPIES = 4
"""So many times a step's keys a call may hold. A rank that has many pieces of one document, as of
`balanced`, would have its keys before each of them: such a step is several calls."""

OPEN, CAUSAL = Mask(), Mask(causal=True)


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows and keys that see each other by the call's mask, as they lie in it.

    rows, keys: where they are stored. backwards: they are given from the last to the first.
    beyond: how many rows behind the last one there would be up to the last key, which stand for
    nobody: the kernel counts from there. area: allowed pairs.
    """

    rows: tuple[Range, ...]
    keys: tuple[Range, ...]
    area: int
    backwards: bool = False
    beyond: int = 0

    @property
    def row_count(self) -> int:
        """How many rows the call has for it."""
        return sum(map(len, self.rows)) + self.beyond

    @property
    def key_count(self) -> int:
        """How many keys the call has for it."""
        return sum(map(len, self.keys))


@dataclass(frozen=True)
class Pack:
    """One packed call. number: of the calls of all ranks in a pass, for what is drawn in it."""

    segments: tuple[Segment, ...]
    mask: Mask
    number: int = 0

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # kept, because what lies on the device is found by it in every layer
        return hash((self.segments, self.mask, self.number))

    @cached_property
    def row_count(self) -> int:
        """How many rows the call has."""
        return sum(segment.row_count for segment in self.segments)

    @cached_property
    def key_count(self) -> int:
        """How many keys the call has."""
        return sum(segment.key_count for segment in self.segments)

    @cached_property
    def longest(self) -> tuple[int, int]:
        """The most rows and the most keys of a segment."""
        rows = max(segment.row_count for segment in self.segments)
        return rows, max(segment.key_count for segment in self.segments)

    @cached_property
    def area(self) -> int:
        """The number of allowed pairs."""
        return sum(segment.area for segment in self.segments)


def packs(rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band) -> tuple[Pack, ...]:
    """Calls that together hold every allowed pair once: of keys of any ranks, whatever else there
    is.

    No row is in a call twice, so that what a call gives can be merged at once.
    """
    kinds: dict[Mask, list[Segment]] = {}
    theirs = by_document(keys)
    for document, ours in by_document(_joined(rows)).items():
        for mask, segment in _of_document(ours, _joined(theirs.get(document, ())), band):
            kinds.setdefault(mask, []).append(segment)
    _fewer(kinds)
    room = COPIES * sum(len(chunk.tokens) for chunk in keys)
    return tuple(
        Pack(tuple(segments), mask)
        for mask, of_kind in kinds.items()
        for segments in _apart(of_kind, room)
    )


def whole_packs(
    rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band, *, by_index: bool
) -> tuple[Pack, ...]:
    """One call where the keys of all ranks are there, and nothing is dealt by stripes.

    Every chunk of rows is a segment, with the keys around it up to where it ends; so the mask is
    the call's own, and what a kernel adds by index (by_index) is by position. It is more than one
    call only where keys would have to be copied more than `COPIES` times.
    """
    anywhere = band.is_open and not by_index
    found: list[Segment] = []
    theirs = by_document(keys)
    for document, ours in by_document(_joined(rows)).items():
        near = sorted(theirs.get(document, ()), key=lambda chunk: chunk.span.start)
        segments = [x for row in ours if (x := _around(row, near, band, anywhere)) is not None]
        found += _by_keys(segments) if anywhere else segments
    mask = Mask(band.low == 0, band.high, None if not band.low else -band.low)
    room = COPIES * sum(len(chunk.tokens) for chunk in keys)
    return tuple(Pack(tuple(segments), mask) for segments in _apart(found, room))


def _around(row: Chunk, keys: Sequence[Chunk], band: Band, anywhere: bool) -> Segment | None:
    """The row's segment: of its document's keys, which lie in a row once they are sorted."""
    first, stop = row.span.start, row.span.start + row.span.count
    begin = None if band.high is None else first - band.high
    end = None if band.low is None else stop - band.low
    seen = [part for key in keys if (part := _between(key, begin, end)) is not None]
    if not seen:
        return None
    at, last = seen[0].span.start, seen[-1].span.last
    span = Span(at, last + 1 - at)
    inside = band.between(row.span, span)
    visible = inside.visible_rows(row.span.count, span.count)
    if not len(visible):
        return None
    tokens = Range(row.tokens.start + visible.start, row.tokens.stop)
    area = inside.area(row.span.count, span.count)
    beyond = 0 if anywhere else last + 1 - stop
    assert beyond >= 0, "a document's last query stands at its last key"
    return Segment((tokens,), tuple(part.tokens for part in seen), area, beyond=beyond)


def _between(key: Chunk, begin: int | None, end: int | None) -> Chunk | None:
    """The key's part from one position to another."""
    first, count = key.span.start, key.span.count
    start = 0 if begin is None else max(0, begin - first)
    stop = count if end is None else min(count, end - first)
    if stop <= start:
        return None
    inside = Range(start, stop)
    return Chunk(inside.shifted(key.tokens.start), key.span.part(inside), key.document)


def _joined(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Chunks, of which neighbours in storage and in the document are one."""
    found: list[Chunk] = []
    for chunk in chunks:
        before = found[-1] if found else None
        if before is not None and _goes_on(before, chunk):
            tokens = Range(before.tokens.start, chunk.tokens.stop)
            span = replace(before.span, count=before.span.count + chunk.span.count)
            found[-1] = Chunk(tokens, span, chunk.document)
        else:
            found.append(chunk)
    return found


def _goes_on(before: Chunk, after: Chunk) -> bool:
    a, b = before.span, after.span
    stored = before.tokens.stop == after.tokens.start and before.document == after.document
    return stored and a.step == b.step == 1 and a.start + a.count == b.start


_Kinds = Iterator[tuple[Mask, Segment]]


def _of_document(rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band) -> _Kinds:
    """The segments of one document's rows and keys, each with the mask that it needs."""
    open_ones: list[Segment] = []
    for row in rows:
        found = [x for key in keys for x in _segments(trimmed(row, key, band))]
        everything = [x for mask, x in found if mask == OPEN]
        for mask, segment in found:
            if mask == OPEN:
                continue
            alike = [x for x in everything if x.rows == segment.rows] if mask == CAUSAL else []
            everything = [x for x in everything if x not in alike]
            yield mask, _with(segment, alike)
        open_ones += _by_rows(everything)
    for segment in _by_keys(open_ones):
        yield OPEN, segment


def _segments(piece: Cut | None) -> _Kinds:
    """A piece of one chunk of rows and one of keys, all of which see something."""
    if piece is None:
        return
    left, right = piece.block.window
    rows, keys = len(piece.rows), len(piece.keys)
    if left is None and right is None:
        yield OPEN, _segment(piece, 0, rows)
    elif left is None:
        # of rows at the end that see all keys, the last `right`; the others are causal
        assert right is not None
        causal = rows - right
        yield CAUSAL, _segment(piece, 0, causal)
        if right:
            yield OPEN, _segment(piece, causal, rows)
    elif right is None:
        # the same from the last to the first: key j' is seen from i' = j' - left on
        every = left - (keys - rows)
        yield CAUSAL, replace(_segment(piece, every, rows), backwards=True)
        if every:
            yield OPEN, _segment(piece, 0, every)
    else:
        yield Mask(right == 0, left, right or None), _segment(piece, 0, rows)


def _segment(piece: Cut, start: int, stop: int) -> Segment:
    """Of the piece's rows from start to stop, and all its keys."""
    rows, keys, block = piece.rows, piece.keys, piece.block
    (row,), (key,) = block.rows, block.keys
    part = Block((row.part(Range(start, stop)),), (key,), block.band)
    return Segment((Range(rows.start + start, rows.start + stop),), (keys,), part.area)


def _with(segment: Segment, others: Sequence[Segment]) -> Segment:
    """A causal segment with keys that all of its rows see, which come first as they are given."""
    keys = tuple(tokens for other in others for tokens in other.keys)
    area = segment.area + sum(other.area for other in others)
    both = (*segment.keys, *keys) if segment.backwards else (*keys, *segment.keys)
    return replace(segment, keys=both, area=area)


def _by_rows(segments: Iterable[Segment]) -> list[Segment]:
    """Open segments, of which those of the same rows are one."""
    found: dict[tuple[Range, ...], list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.rows, []).append(segment)
    return [_with(first, others) for first, *others in found.values()]


def _by_keys(segments: Iterable[Segment]) -> list[Segment]:
    """Open segments, of which those of the same keys are one."""
    found: dict[tuple[Range, ...], Segment] = {}
    for segment in segments:
        before = found.get(segment.keys)
        if before is not None:
            rows, area = (*before.rows, *segment.rows), before.area + segment.area
            segment = replace(before, rows=rows, area=area)
        found[segment.keys] = segment
    return list(found.values())


def _fewer(kinds: dict[Mask, list[Segment]]) -> None:
    """Moves what another mask leaves as it is to the calls of that one: a window's, or causal."""
    windows = [mask for mask in kinds if mask not in (OPEN, CAUSAL)]
    for taker in (*windows, CAUSAL):
        if taker not in kinds:
            continue
        for mask in [mask for mask in (OPEN, CAUSAL) if mask in kinds and mask != taker]:
            stay: list[Segment] = []
            for segment in kinds.pop(mask):
                (kinds[taker] if _is_same(segment, mask, taker) else stay).append(segment)
            if stay:
                kinds[mask] = stay


def _is_same(segment: Segment, mask: Mask, other: Mask) -> bool:
    """Whether the other mask allows the segment what its own does."""
    left, right = other.window_left, 0 if other.causal else other.window_right
    if left is not None and left < segment.key_count - 1:
        return False
    if mask == CAUSAL:
        return right == 0
    return right is None or right >= segment.row_count - 1


def _apart(segments: Iterable[Segment], room: int) -> list[list[Segment]]:
    """The segments in as few calls as hold no row twice, and no more keys than there is room."""
    calls: list[list[Segment]] = []
    rows: list[Touched] = []
    left: list[int] = []
    for segment in segments:
        keys = segment.key_count
        for call in range(len(calls)):
            if keys <= left[call] and not any(map(rows[call].has, segment.rows)):
                break
        else:
            call = len(calls)
            calls.append([])
            rows.append(Touched())
            left.append(max(room, keys))
        calls[call].append(segment)
        for tokens in segment.rows:
            rows[call].add(tokens)
        left[call] -= keys
    return calls
