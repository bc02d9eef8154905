"""One colour and marker for each backend, one line for each partition, in every picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from ring_attn_bench.registry import is_peer
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.plots.peers import OTHER_HATCH, look

Look = tuple[str, str]
"""A backend's colour and marker, as matplotlib names them."""
Line = Literal["-", "--", ":", "-."]
Fill = Literal["full", "none", "left", "bottom", "right", "top"]

# Okabe and Ito's palette, which the colour-blind can tell apart (jfly.uni-koeln.de/color), without
# its yellow, which white paper swallows.
_KNOWN: Mapping[str, Look] = {
    "triton": ("#D55E00", "o"),
    "flash_attn_4": ("#0072B2", "s"),
    "cudnn": ("#009E73", "^"),
    "aten": ("#E69F00", "D"),
    "reference": ("#000000", "X"),
    "flash_attn_3": ("#0072B2", "v"),
    "flash_attn_2": ("#56B4E9", "<"),
    "flex": ("#CC79A7", "P"),
    "flag_gems": ("#CC79A7", "h"),
    "cute": ("#CC79A7", "*"),  # beside triton and flash_attn_4 in tables, seldom beside flex
}
_COLOURS = ("#CC79A7", "#56B4E9", "#009E73", "#D55E00", "#000000", "#E69F00", "#0072B2")
_MARKERS = (">", "p", "h", "*", "d", "8", "H", "o", "s", "^", "D", "v", "<")
_OTHERS: tuple[Look, ...] = tuple(
    (colour, marker)
    for turn in range(len(_MARKERS))
    for place, colour in enumerate(_COLOURS)
    for marker in (_MARKERS[(place + turn) % len(_MARKERS)],)
    if (colour, marker) not in _KNOWN.values()
)
"""For backends that are not known here: more than 80 of them before any two look alike."""
_LINES: Mapping[str, Line] = {
    "zigzag": "-", "contiguous": "--", "striped": ":", "balanced": "-.", "head_tail": ":",
}  # fmt: skip
"""There are no more lines than these; of documents nobody deals stripes."""
_FILLS: tuple[Fill, ...] = ("full", "none", "left", "bottom", "right", "top")
_SIZE, _LARGER = 4.5, 2.5


@dataclass(frozen=True, slots=True)
class Style:
    """The looks of all backends of a file, so that all its pictures agree."""

    looks: Mapping[str, Look]
    variants: tuple[tuple[object, ...], ...]
    """Transport and options of our ring, in the order of the file; told by the filling."""

    @classmethod
    def of(cls, rows: Iterable[ReportRow]) -> Style:
        """Unknown backends and peers get a look by their name, the next one where it is taken."""
        rows = tuple(rows)
        names = sorted({row.backend for row in rows})
        known = {**_KNOWN, **{name: peer for name in names if (peer := _peer(name))}}
        unknown = [name for name in names if name not in known]
        taken = {known[name] for name in names if name in known}
        return cls({**known, **_dealt(unknown, taken)}, tuple(dict.fromkeys(variants(rows))))

    def colour(self, row: ReportRow) -> str:
        """The colour of the backend."""
        return self.looks[row.backend][0]

    def marker(self, row: ReportRow) -> str:
        """The marker of the backend."""
        return self.looks[row.backend][1]

    def hatch(self, row: ReportRow) -> str:
        """Of bars: a peer's has one, ours have none."""
        if not is_peer(row.backend):
            return ""
        peer = look(row.backend)
        return OTHER_HATCH if peer is None else peer.hatch

    def fill(self, row: ReportRow) -> Fill:
        """The marker's filling: the variant's, and none for a peer."""
        if is_peer(row.backend):
            return "none"
        return _FILLS[self._variant(row) % len(_FILLS)]

    def size(self, row: ReportRow) -> float:
        """The marker's: where variants outnumber the fillings, the later ones are larger."""
        return _SIZE + _LARGER * (self._variant(row) // len(_FILLS))

    def _variant(self, row: ReportRow) -> int:
        return 0 if is_peer(row.backend) else self.variants.index(variant(row))

    def line(self, row: ReportRow) -> Line:
        """The partition's line style."""
        return _LINES.get(row.partition, "-.")


def _dealt(names: Sequence[str], taken: set[Look]) -> dict[str, Look]:
    """A look for each name, the same in every run but where two names want one."""
    dealt: dict[str, Look] = {}
    for name in names:
        free = [one for one in _OTHERS if one not in taken] or list(_OTHERS)
        first = crc32(name.encode()) % len(_OTHERS)
        turned = (*_OTHERS[first:], *_OTHERS[:first])
        dealt[name] = next(one for one in turned if one in free)
        taken = taken | {dealt[name]}
    return dealt


def _peer(name: str) -> Look | None:
    """The colour of the kernel inside, and a marker of its own; None for what is not known."""
    peer = look(name)
    return None if peer is None else (_KNOWN[peer.backend][0], peer.marker)


def variants(rows: Iterable[ReportRow]) -> list[tuple[object, ...]]:
    """The variant of every row of our ring."""
    return [variant(row) for row in rows if not is_peer(row.backend)]


def variant(row: ReportRow) -> tuple[object, ...]:
    """What else tells contestants of one backend and partition apart."""
    return row.transport, *row.options.values()
