"""One launch over the keys of many ranks: its lines of tokens, and what each of them visits.

Rows and keys lie in areas: the rank's own shard, and the landing area with the pieces that came
from other ranks. A *line* is tokens of one document and one area that are stored in a row at evenly
spaced positions; its *visits* are the lines of the other side that it sees, own ones first, then in
the order in which pieces arrive. A kernel is given tiles of lines, the heaviest first (`tiles`),
and walks each tile's visits; so any partition, mask, documents and number of ranks are one launch.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ring_attn_bench.plan.documents import OUTSIDE
from ring_attn_bench.plan.lower import Chunk
from ring_attn_bench.plan.positions import Band, Range
from ring_attn_bench.plan.room import Place

OWN = 0
"""The piece that is the rank's own shard; others count from 1, in the order of arrival."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Tokens of the other side: of what piece, where in its area, and which of them are seen.

    band: row i and key j see each other iff low <= i - j <= high, i and j counted in their areas.
    start: the position of the first of the tokens.
    """

    piece: int
    tokens: Range
    band: Band
    start: int

    def pairs(self, mine: Range, *, of_keys: bool) -> int:
        """How many pairs are allowed of these tokens of the visitor's; of_keys: they are keys."""
        rows, keys = (self.tokens, mine) if of_keys else (mine, self.tokens)
        return self.band.shifted(keys.start - rows.start).area(len(rows), len(keys))


@dataclass(frozen=True, slots=True)
class Visitors:
    """Rows, or keys, and the visits that their tiles make. start: the first one's position."""

    piece: int
    tokens: Range
    start: int
    visits: tuple[Visit, ...]
    of_keys: bool = False


@dataclass(frozen=True)
class Gathered:
    """A launch: lines of queries that visit keys, and for the other gradients, keys that visit
    queries.

    pieces: how many come from other ranks. step: from one position of a line to the next.
    of_batch: whether it is of one batch's documents: another batch has another. place: of its
    tables, where those have room for other batches.
    """

    rows: tuple[Visitors, ...]
    keys: tuple[Visitors, ...]
    pieces: int
    step: int
    of_batch: bool = False
    place: Place | None = None

    @property
    def ragged(self) -> bool:
        """Whether a band is not open somewhere: tiles then differ in what they visit."""
        return any(not visit.band.is_open for line in self.rows for visit in line.visits)

    @property
    def area(self) -> int:
        """The number of allowed pairs."""
        return sum(v.pairs(line.tokens, of_keys=False) for line in self.rows for v in line.visits)


@dataclass(frozen=True, slots=True)
class Tile:
    """Tokens that one program has, `tokens` at most a block of them, and their line's number."""

    line: int
    tokens: Range
    weight: int
    """The pairs that the mask allows it."""


def gathered(
    rows: Sequence[Chunk], keys: Sequence[tuple[int, Chunk]], band: Band, *, join: bool,
    of_batch: bool = False, place: Place | None = None,
) -> Gathered:  # fmt: skip
    """What `rows` see of `keys`, chunks of pieces, in the order in which they are to be visited.

    join: whether neighbours in one piece may be one visit where a band of indices covers both; not
    for a kernel that must know positions.
    """
    own = _by_document((OWN, chunk) for chunk in rows)
    theirs = _by_document(keys)
    lines = tuple(
        _line(OWN, row, theirs.get(row.document, ()), band, join=join, of_keys=False)
        for row in rows
    )
    columns = tuple(
        _line(piece, key, own.get(key.document, ()), band, join=join, of_keys=True)
        for piece, key in keys
    )
    steps = {c.span.step for c in (*rows, *(key for _, key in keys)) if c.span.count > 1}
    assert len(steps) <= 1, f"chunks of the steps {sorted(steps)} are not of one partition"
    pieces = max((piece for piece, _ in keys), default=OWN)
    step = steps.pop() if steps else 1
    step = step if place is None else place.step  # which documents of single tokens do not show
    return Gathered(lines, columns, pieces, step, of_batch, place)


def tiles(
    lines: Sequence[Visitors], block: int, *, own_first: bool | None = None
) -> tuple[Tile, ...]:
    """The lines in tiles of `block` tokens, the heaviest first.

    own_first: for lines of several pieces, piece by piece as they arrive, each one's heaviest tile
    first: the own one before the others, or where False behind them. None: by weight alone.
    """
    visits = [
        Tile(number, part, sum(visit.pairs(part, of_keys=line.of_keys) for visit in line.visits))
        for number, line in enumerate(lines)
        for part in _parts(line.tokens, block)
    ]

    def order(tile: Tile) -> tuple[int, int]:
        piece = lines[tile.line].piece
        turn = 0 if own_first is None else piece if own_first or piece != OWN else len(lines)
        return turn, -tile.weight

    return tuple(sorted(visits, key=order))


def _by_document(keys: Iterable[tuple[int, Chunk]]) -> dict[int, list[tuple[int, Chunk]]]:
    """As `lower.by_document`, each chunk with its piece."""
    found: dict[int, list[tuple[int, Chunk]]] = {}
    for piece, chunk in keys:
        if chunk.document != OUTSIDE:
            found.setdefault(chunk.document, []).append((piece, chunk))
    return found


def _line(
    piece: int, mine: Chunk, theirs: Sequence[tuple[int, Chunk]], band: Band, *,
    join: bool, of_keys: bool,
) -> Visitors:  # fmt: skip
    visits: list[Visit] = []
    for other, chunk in theirs:
        row, key = (chunk, mine) if of_keys else (mine, chunk)
        inside = band.between(row.span, key.span)
        if not len(inside.visible_keys(row.span.count, key.span.count)):
            continue
        absolute = inside.shifted(row.tokens.start - key.tokens.start)
        visit = Visit(other, chunk.tokens, absolute, chunk.span.start)
        joined = _joined(visits[-1], visit, mine.tokens, of_keys) if join and visits else None
        if joined is None:
            visits.append(visit)
        else:
            visits[-1] = joined
    return Visitors(piece, mine.tokens, mine.span.start, tuple(visits), of_keys)


def _joined(before: Visit, after: Visit, mine: Range, of_keys: bool) -> Visit | None:
    """Two visits of neighbours as one, where one band says of both what theirs do."""
    if before.piece != after.piece or before.tokens.stop != after.tokens.start:
        return None
    for kept, whole in ((after, before), (before, after)):
        rows, keys = (whole.tokens, mine) if of_keys else (mine, whole.tokens)
        if whole.band.is_open and _all_allowed(rows, keys, kept.band):
            tokens = Range(before.tokens.start, after.tokens.stop)
            return Visit(before.piece, tokens, kept.band, before.start)
    return None


def _all_allowed(rows: Range, keys: Range, band: Band) -> bool:
    nearest, farthest = rows.start - (keys.stop - 1), rows.stop - 1 - keys.start
    return (band.low is None or band.low <= nearest) and (
        band.high is None or farthest <= band.high
    )


def _parts(tokens: Range, block: int) -> Iterator[Range]:
    for start in range(tokens.start, tokens.stop, block):
        yield Range(start, min(start + block, tokens.stop))
