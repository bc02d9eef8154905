"""One colour and marker for each backend, one line for each partition, in every picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ring_attn_bench.report.columns import Row

Look = tuple[str, str]
"""Colour and marker."""
Line = Literal["-", "--", ":", "-."]
Fill = Literal["full", "none", "left", "bottom"]

# Okabe and Ito's palette, which the colour-blind can tell apart (jfly.uni-koeln.de/color), without
# its yellow, which white paper swallows.
_KNOWN: Mapping[str, Look] = {
    "triton": ("#D55E00", "o"),
    "flash_attn_4": ("#0072B2", "s"),
    "cudnn": ("#009E73", "^"),
    "aten": ("#E69F00", "D"),
    "reference": ("#000000", "X"),
    "cute": ("#CC79A7", "P"),
    "flash_attn_3": ("#56B4E9", "v"),
    "flash_attn_2": ("#0072B2", "<"),
}
_OTHERS: tuple[Look, ...] = (
    ("#CC79A7", ">"), ("#56B4E9", "p"), ("#009E73", "h"), ("#D55E00", "*"), ("#000000", "d"),
)  # fmt: skip
_LINES: Mapping[str, Line] = {"zigzag": "-", "contiguous": "--", "striped": ":"}
_FILLS: tuple[Fill, ...] = ("full", "none", "left", "bottom")


@dataclass(frozen=True, slots=True)
class Style:
    """The looks of all backends of a file, so that all its pictures agree."""

    looks: Mapping[str, Look]
    variants: tuple[tuple[object, ...], ...]
    """Transport, slots and gradients, in the order of the file; told by the marker's filling."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Style:
        """Unknown backends get the looks that are left, by name."""
        rows = tuple(rows)
        unknown = sorted({row.backend for row in rows} - set(_KNOWN))
        others = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(unknown)}
        return cls({**_KNOWN, **others}, tuple(dict.fromkeys(variant(row) for row in rows)))

    def colour(self, row: Row) -> str:
        """The backend's."""
        return self.looks[row.backend][0]

    def marker(self, row: Row) -> str:
        """The backend's."""
        return self.looks[row.backend][1]

    def fill(self, row: Row) -> Fill:
        """The marker's filling: the variant's."""
        return _FILLS[self.variants.index(variant(row)) % len(_FILLS)]

    def line(self, row: Row) -> Line:
        """The partition's."""
        return _LINES.get(row.partition, "-.")


def variant(row: Row) -> tuple[object, ...]:
    """What else tells contestants of one backend and partition apart."""
    return row.transport, row.slots, row.gradients
