"""What a page says, as one frozen value: sections of tables, pictures, words and commands.

Every text is as it is: whoever shows it escapes it. Only `Meanings` are our own words, in which
backticks mark code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from ring_attn_bench.report.tables import Table
from ring_attn_bench.text.digits import SUFFIXES

Tone = Literal["", "good", "bad", "quiet"]
_NUMBER = re.compile(r"[<>]?\s*(-?[\d,]*\.?\d+(?:e[+-]\d+)?)([KM]?)x?(?![\w.])")
"""As in page.js: 1,024 or 0.53x or <1.2e-05 or 64K, and what stands behind it, but no 4on2."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and what it means. who: the backend that it names first, and whose mark it gets.

    heat: how near it is to the best, from 0 to 1. parts: shares of a whole, for a bar. link: where
    the text leads, as a path from the page.
    """

    text: str
    order: float | None = None
    tone: Tone = ""
    who: str = ""
    heat: float | None = None
    parts: tuple[float, ...] = ()
    link: str = ""

    @property
    def rank(self) -> float | None:
        """By what a column is sorted: the order, or else the number with which the text begins."""
        if self.order is not None:
            return self.order
        number = _NUMBER.match(self.text)
        return float(number[1].replace(",", "")) * SUFFIXES[number[2].lower()] if number else None


@dataclass(frozen=True, slots=True)
class Column:
    """Its head, what that means, and what its cells are."""

    head: str
    kind: Literal["word", "number", "code", "bar"] = "number"
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Cells:
    """A table of them. folded: shown once it is asked for."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False

    @classmethod
    def of(cls, table: Table, *, folded: bool = False) -> Cells:
        """A table of a terminal: its first columns are words."""
        rows = tuple(tuple(map(Cell, row)) for row in table.rows)
        numeric = [
            any(row[place].rank is not None for row in rows) for place in range(len(table.headers))
        ]
        columns = tuple(
            Column(head, "number" if place >= table.names and numeric[place] else "word")
            for place, head in enumerate(table.headers)
        )
        return cls(table.caption, columns, rows, tuple(table.below()), folded)


@dataclass(frozen=True, slots=True)
class Prose:
    """Paragraphs, or the points of a list."""

    texts: tuple[str, ...]
    points: bool = False


@dataclass(frozen=True, slots=True)
class Meanings:
    """Words and what they mean, in our own words, with `code` in backticks."""

    pairs: tuple[tuple[str, str], ...]
    title: str = ""
    """Under which they are folded away; empty if they are not."""


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for a shell, each with what it is for."""

    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """The same twice: a file beside the page, and an SVG element. alt: what it shows, in words.

    source: the file that it was drawn from, as a path from the page; source_name: its name.
    """

    path: PurePosixPath
    svg: str
    alt: str
    source: str = "results.csv"
    source_name: str = "results.csv"


@dataclass(frozen=True, slots=True)
class Heading:
    """The heading of what follows in a section."""

    text: str


Block: TypeAlias = Cells | Prose | Meanings | Commands | Picture | Heading


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a title that can be linked to."""

    name: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A backend's colour and marker, the same in every table and picture."""

    backend: str
    colour: str
    marker: str
    is_open: bool
    told: str
    """What stands beside its name where backends are listed."""


@dataclass(frozen=True, slots=True)
class Page:
    """All that there is to say of a run or of several, the most important first."""

    title: str
    about: str
    verdict: str
    points: tuple[str, ...]
    marks: tuple[Mark, ...]
    sections: tuple[Section, ...]
