"""A table of text, and its two forms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from textwrap import fill, shorten

from tabulate import SEPARATING_LINE, tabulate

from ring_attn_bench.text.controls import spelled

WIDTH = 100
"""Columns of a terminal that nobody knows."""
_GAP = 2
_NARROWEST = 6
_BETWEEN_WORDS = r"(?<=[ ,/])|(?=\[)"
_INSIDE_NAMES = rf"{_BETWEEN_WORDS}|(?<=_)"
_ESCAPES = (
    ("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`"),
    ("](", "]\\("),
)  # fmt: skip
fold = partial(fill, break_on_hyphens=False)
"""A sentence in lines; only a word that is longer than a line is broken."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already. The first `names` columns are words, the others numbers.

    least: heads of the columns that a narrow terminal can do without, the first one first; then
        goes whatever is on the right. remarks: sentences below it, which no cell cites.
    """

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    notes: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def align(self) -> tuple[str, ...]:
        """Words to the left, numbers to the right."""
        return tuple("left" if place < self.names else "right" for place in range(self._count))

    @property
    def _count(self) -> int:
        return len(self.headers)

    def filled(self) -> Table:
        """Without the number columns in which no cell is filled."""
        keep = [
            place
            for place in range(self._count)
            if place < self.names or any(row[place] for row in self.rows)
        ]
        return self._with(keep)

    def _with(self, keep: Sequence[int]) -> Table:
        """These columns, `names` among them."""
        headers, *rows = (tuple(row[place] for place in keep) for row in (self.headers, *self.rows))
        return replace(self, headers=headers, rows=tuple(rows))

    def terminal(self, width: int = WIDTH) -> str:
        """At most that many columns wide, however long its words are."""
        fitting = self._spelled()._fitting(width)
        shown = fitting._ruled(width)
        dropped = [head for head in self.headers if head not in fitting.headers]
        if dropped:
            shown += f"\n(too narrow for: {', '.join(dropped)})"
        lines = shown.splitlines()
        notes = [fold(note, width, subsequent_indent="    ") for note in self.below()]
        last = [fold(line, width) for line in lines[-1:]] if dropped else lines[-1:]
        return "\n".join([fold(self.caption, width), *lines[:-1], *last, *notes])

    def _spelled(self) -> Table:
        """With words of others as they are printed, so that columns are as wide as those."""
        return replace(self, rows=tuple(tuple(map(spelled, row)) for row in self.rows))

    def _ruled(self, width: int) -> str:
        widths, breaks = self._widths(width)
        head, *body = (
            [_folded(cell, size, breaks) for cell, size in zip(row, widths, strict=True)]
            for row in (self.headers, *self.rows)
        )
        # The head is a row like others, because tabulate makes columns wider than their heads.
        ruled = tabulate(
            [head, SEPARATING_LINE, *body],
            tablefmt="simple",
            colalign=self.align,
            disable_numparse=True,
        )
        return "\n".join(ruled.splitlines()[:-1])  # without the rule at the bottom

    def _fitting(self, width: int) -> Table:
        """Without the columns for which there is no room though all words are below each other."""
        table = self
        while table._count - table.names > 1 and not table._has_room(width):
            numbers = list(table.headers[table.names :])
            drop = next((head for head in self.least if head in numbers), numbers[-1])
            place = table.names + numbers.index(drop)
            table = table._with([at for at in range(table._count) if at != place])
        return table

    def _has_room(self, width: int) -> bool:
        return sum(self._least_widths(_BETWEEN_WORDS)) <= self._room(width)

    def _room(self, width: int) -> int:
        return width - _GAP * (self._count - 1)

    def markdown(self) -> str:
        """A pipe table with its caption in bold above it."""
        rows = [[escape(cell) for cell in row] for row in self.rows]
        headers = [escape(header) for header in self.headers]
        body = pipes(headers, rows, self.align)
        notes = "<br>".join(escape(note) for note in self.below())
        return "\n\n".join(part for part in (f"**{escape(self.caption)}**", body, notes) if part)

    def numbered(self) -> list[str]:
        """The notes as the cells cite them: [1] its text."""
        return [f"[{number}] {note}" for number, note in enumerate(self.notes, start=1)]

    def below(self) -> list[str]:
        """All that stands under the table."""
        return [*self.numbered(), *self.remarks]

    def _least_widths(self, breaks: str) -> list[int]:
        """Of each column where names are folded as far as they can be, and heads of numbers."""
        columns = list(zip(self.headers, *self.rows, strict=True))
        names = [
            max(len(piece) for cell in column for piece in _pieces(cell, breaks))
            for column in columns[: self.names]
        ]
        numbers = [max(map(len, (*head.split(), *cells))) for head, *cells in columns[self.names :]]
        return names + numbers

    def _widths(self, width: int) -> tuple[list[int], str]:
        """Of each column, and where its words may end a line.

        Where the sum is too much, heads of numbers are folded, then names between their words,
        then at their underscores, and then anywhere.
        """
        columns = list(zip(self.headers, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        room = self._room(width)
        if sum(widths) <= room:
            return widths, _BETWEEN_WORDS
        widths[self.names :] = self._least_widths(_BETWEEN_WORDS)[self.names :]
        for breaks in (_BETWEEN_WORDS, _INSIDE_NAMES):
            least = self._least_widths(breaks)[: self.names]
            if self._narrowed(widths, least, room):
                return widths, breaks
        self._narrowed(widths, [_NARROWEST] * self.names, room)
        return widths, _INSIDE_NAMES

    def _narrowed(self, widths: list[int], least: Sequence[int], room: int) -> bool:
        """Whether the columns fit, once those of names were made narrower, the widest first."""
        while sum(widths) > room:
            spare = [place for place in range(self.names) if widths[place] > least[place]]
            if not spare:
                return False
            widths[max(spare, key=lambda place: widths[place])] -= 1
        return True


class Notes:
    """Reasons, numbered in the order in which a table cites them."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def cite(self, text: str | None) -> str:
        """The mark for a note: [1]; empty for none."""
        if not text:
            return ""
        short = shorten(text, 2 * WIDTH, placeholder=" ...")
        return f"[{self._numbers.setdefault(short, len(self._numbers) + 1)}]"

    @property
    def texts(self) -> tuple[str, ...]:
        """The notes, the first cited first."""
        return tuple(self._numbers)


def pipes(headers: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str]) -> str:
    """A table of markdown, without padding, which would be most of a page; cells are escaped."""
    rule = ["---:" if side == "right" else "---" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *rows))


def escape(text: str) -> str:
    """Text that markdown shows as it is, in one line."""
    for special, shown in _ESCAPES:
        text = text.replace(special, shown)
    return " ".join(text.splitlines())


def _pieces(cell: str, breaks: str) -> Iterator[str]:
    """The pieces of a cell that each stay in one line."""
    for piece in re.split(breaks, cell):
        yield piece.rstrip()


def _folded(cell: str, width: int, breaks: str) -> str:
    """Lines of that width; a piece that is longer is broken anywhere."""
    if len(cell) <= width:
        return cell
    lines = [""]
    for piece in re.split(breaks, cell):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)
