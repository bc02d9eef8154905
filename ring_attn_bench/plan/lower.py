"""Cuts queries x keys into blocks that a kernel can compute, or says why it cannot be done.

This is the one place where a mask over a whole sequence becomes calls: rows and keys that see
nothing are trimmed away, so a strictly causal block arrives as a causal one over q[1:], k[:-1]
and a window as its own corner of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ring_attn_bench.plan.block import Abilities, Block, Form
from ring_attn_bench.plan.documents import NONE, OUTSIDE, Starts, Void, cut
from ring_attn_bench.plan.positions import Band, Range, Span, part


@dataclass(frozen=True)
class Cut:
    """A block, and where its rows and keys are stored."""

    rows: Range
    keys: Range
    block: Block


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one document that are stored in a row, whose positions are one progression."""

    tokens: Range
    span: Span
    document: int = 0


Documents = dict[int, list[Chunk]]
"""Chunks by the number of their document, in stored order."""


def chunks(
    spans: Iterable[Span], start: int = 0, documents: Starts | None = None, void: Void = NONE
) -> tuple[Chunk, ...]:
    """The chunks of spans that are stored one after another from `start` on.

    documents: where they begin; None where all tokens are of one. void: which of them are padding.
    """
    made = []
    for span in spans:
        for piece, document in [(span, 0)] if documents is None else cut(span, documents, void):
            made.append(Chunk(Range(start, start + piece.count), piece, document))
            start += piece.count
    return tuple(made)


def by_document(chunks: Iterable[Chunk]) -> Documents:
    """The chunks of each document, without those of tokens that are in none."""
    found: Documents = {}
    for chunk in chunks:
        if chunk.document != OUTSIDE:
            found.setdefault(chunk.document, []).append(chunk)
    return found


def visible_keys(rows: Sequence[Chunk], keys: Chunk, band: Band) -> Range:
    """The hull of the keys (indices inside the chunk) that any of the rows sees."""
    seen = [
        band.between(r.span, keys.span).visible_keys(r.span.count, keys.span.count) for r in rows
    ]
    seen = [s for s in seen if len(s)]
    if not seen:
        return Range(0, 0)
    return Range(min(s.start for s in seen), max(s.stop for s in seen))


def lower(
    rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band, able: Abilities
) -> tuple[Cut, ...] | str:
    """Blocks that together hold every allowed pair once and nothing else, or the reason why not.

    rows, keys: chunks in stored order. Only those of one document see each other, so each document
    is lowered by itself.
    able: the blocks that the kernel can be given.
    """
    fitting: list[Cut] = []
    theirs = by_document(keys)
    for document, ours in by_document(rows).items():
        if document not in theirs:
            continue
        found = _lowered(ours, theirs[document], band, able)
        if isinstance(found, str):
            return found
        fitting.extend(found)
    return tuple(fitting)


def _lowered(
    rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band, able: Abilities
) -> Sequence[Cut] | str:
    """The blocks of one document."""
    pieces = _split(rows, keys, band, join=not able.index_alibi)
    if len(pieces) > 1 and _in_a_row(rows) and _in_a_row(keys):
        # one call where one will do: a local causal block, or a kernel that masks by position
        whole = _piece(_hull(rows), _hull(keys), rows, keys, band)
        if refusal(whole.block, able) is None:
            return (whole,)
    fitting: list[Cut] = []
    for piece in pieces:
        reason = refusal(piece.block, able)
        parts = (piece,) if reason is None else _stairs(piece)
        if reason is not None and any(refusal(x.block, able) for x in parts):
            return reason
        fitting.extend(parts)
    return fitting


def _stairs(piece: Cut) -> tuple[Cut, ...]:
    """A piece that is causal with a head start, as full blocks and one causal one.

    Row i sees keys 0 to i + c: all rows see the first c keys, the next rows and keys are causal,
    and rows that are left see all keys. Any other piece is given back as it is.
    """
    band, rows, keys = piece.block.index_band, piece.rows, piece.keys
    if band is None or band.high is not None or band.low is None or band.low > 0:
        return (piece,)
    start = -band.low
    steps = len(keys) - start
    cuts = (
        (Range(0, len(rows)), Range(0, start)),
        (Range(0, steps), Range(start, len(keys))),
        (Range(steps, len(rows)), Range(start, len(keys))),
    )
    return tuple(
        Cut(
            row.shifted(rows.start),
            key.shifted(keys.start),
            Block(part(piece.block.rows, row), part(piece.block.keys, key), piece.block.band),
        )
        for row, key in cuts
        if len(row) and len(key)
    )


def refusal(block: Block, able: Abilities) -> str | None:
    """Why a kernel cannot be given the block, or None."""
    # a kernel that masks by position can do every form
    if not able.forms & {block.form, Form.GENERAL}:
        names = ", ".join(sorted(form.value for form in able.forms))
        return f"it has no {block.form.value} block (it can do: {names})"
    if able.index_alibi and block.index_alibi is None:
        return (
            "it counts ALiBi's distances inside the block, which is wrong in a "
            f"{block.form.value} block that does not start at its own first key"
        )
    return None


def _split(
    rows: Sequence[Chunk], keys: Sequence[Chunk], band: Band, *, join: bool
) -> tuple[Cut, ...]:
    """One piece for each pair of chunks that see each other, full neighbours joined if wanted."""
    pieces: list[Cut] = []
    for row in rows:
        line: list[Cut] = []
        for key in keys:
            piece = trimmed(row, key, band)
            if piece is None:
                continue
            if join and line and (joined := _join_keys(line[-1], piece)):
                line[-1] = joined
            else:
                line.append(piece)
        for piece in line:
            above = next((p for p in pieces if join and _joinable_rows(p, piece)), None)
            if above is None:
                pieces.append(piece)
            else:
                pieces[pieces.index(above)] = _join_rows(above, piece)
    return tuple(pieces)


def trimmed(row: Chunk, key: Chunk, band: Band) -> Cut | None:
    """The part of row x key that holds allowed pairs, or None."""
    between = band.between(row.span, key.span)
    seen_rows = between.visible_rows(row.span.count, key.span.count)
    seen_keys = between.visible_keys(row.span.count, key.span.count)
    if not len(seen_rows) or not len(seen_keys):
        return None
    return _piece(
        seen_rows.shifted(row.tokens.start), seen_keys.shifted(key.tokens.start), [row], [key], band
    )


def _join_keys(left: Cut, right: Cut) -> Cut | None:
    """Two full pieces of the same rows, side by side, as one."""
    full = left.block.form is right.block.form is Form.FULL
    if not full or left.rows != right.rows or left.keys.stop != right.keys.start:
        return None
    block = Block(left.block.rows, left.block.keys + right.block.keys, left.block.band)
    return Cut(left.rows, Range(left.keys.start, right.keys.stop), block)


def _joinable_rows(above: Cut, below: Cut) -> bool:
    full = above.block.form is below.block.form is Form.FULL
    return full and above.keys == below.keys and above.rows.stop == below.rows.start


def _join_rows(above: Cut, below: Cut) -> Cut:
    block = Block(above.block.rows + below.block.rows, above.block.keys, above.block.band)
    return Cut(Range(above.rows.start, below.rows.stop), above.keys, block)


def _piece(
    rows: Range, keys: Range, row_chunks: Sequence[Chunk], key_chunks: Sequence[Chunk], band: Band
) -> Cut:
    row_spans = part(tuple(c.span for c in row_chunks), rows.shifted(-row_chunks[0].tokens.start))
    key_spans = part(tuple(c.span for c in key_chunks), keys.shifted(-key_chunks[0].tokens.start))
    return Cut(rows, keys, Block(row_spans, key_spans, band))


def _in_a_row(parts: Sequence[Chunk]) -> bool:
    return all(a.tokens.stop == b.tokens.start for a, b in pairwise(parts))


def _hull(parts: Sequence[Chunk]) -> Range:
    return Range(parts[0].tokens.start, parts[-1].tokens.stop)
