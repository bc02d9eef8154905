"""A table of text, and its two forms."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill, shorten, wrap

from tabulate import SEPARATING_LINE, tabulate

WIDTH = 100
_GAP = 2
_NARROWEST = 6


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already. The first `names` columns are words, the others numbers."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    notes: tuple[str, ...] = ()

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
        return Table(
            self.caption,
            tuple(self.headers[place] for place in keep),
            tuple(tuple(row[place] for place in keep) for row in self.rows),
            self.names,
            self.notes,
        )

    def terminal(self) -> str:
        """At most WIDTH columns wide, however long its words are."""
        widths = self._widths()
        head, *body = (
            [_fold(cell, width) for cell, width in zip(row, widths, strict=True)]
            for row in (self.headers, *self.rows)
        )
        # The head is a row like others, because tabulate makes columns wider than their heads.
        ruled = tabulate(
            [head, SEPARATING_LINE, *body],
            tablefmt="simple",
            colalign=self.align,
            disable_numparse=True,
        )
        notes = [fill(note, WIDTH, subsequent_indent="    ") for note in self.numbered()]
        lines = ruled.splitlines()[:-1]  # without the rule at the bottom
        return "\n".join([fill(self.caption, WIDTH), *lines, *notes])

    def markdown(self) -> str:
        """A pipe table with its caption in bold above it."""
        rows = [[escape(cell) for cell in row] for row in self.rows]
        headers = [escape(header) for header in self.headers]
        body = tabulate(rows, headers, tablefmt="pipe", colalign=self.align, disable_numparse=True)
        notes = "<br>".join(escape(note) for note in self.numbered())
        return "\n\n".join(part for part in (f"**{escape(self.caption)}**", body, notes) if part)

    def numbered(self) -> list[str]:
        """The notes as the cells cite them: [1] its text."""
        return [f"[{number}] {note}" for number, note in enumerate(self.notes, start=1)]

    def _widths(self) -> list[int]:
        """Of each column; where the sum is too much, heads of numbers are folded, then names."""
        columns = list(zip(self.headers, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        spare = WIDTH - _GAP * (self._count - 1)
        if sum(widths) > spare:
            widths[self.names :] = [
                max(map(len, (*head.split(), *cells))) for head, *cells in columns[self.names :]
            ]
        while sum(widths) > spare and max(widths[: self.names]) > _NARROWEST:
            widest = max(range(self.names), key=lambda place: widths[place])
            widths[widest] -= 1
        return widths


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
        """All of them, the first cited first."""
        return tuple(self._numbers)


def escape(text: str) -> str:
    """Text that markdown shows as it is."""
    for special, shown in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*")):
        text = text.replace(special, shown)
    return text


def _fold(cell: str, width: int) -> str:
    """Lines of that width; the name of a peer, which has no spaces, breaks at its bracket."""
    if len(cell) <= width:
        return cell
    return "\n".join(line.replace(" [", "[") for line in wrap(cell.replace("[", " ["), width))
