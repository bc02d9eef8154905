"""The page as report.html: one file that asks nobody for anything."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files

from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from ring_attn_bench.report.page.marks import outline
from ring_attn_bench.report.page.model import Cell, Page
from ring_attn_bench.report.plots.svg import paint

_HERE = files(__package__)
_LONG = 44
"""Letters of a text that is as wide as it likes to be."""
_AS_SHOWN = 0.005
"""Of three digits, what rounding takes."""
_INSIDE = re.compile(r" (?![±+[(])")
_PARTS = re.compile(r"(?<=[:,\[])")


def html(page: Page) -> str:
    """The page as one HTML file."""
    environment = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"code": _code, "kind": _kind}
    marks = {mark.backend: place for place, mark in enumerate(page.marks)}
    return environment.from_string(_read("page.html.j2")).render(
        page=page,
        marks=marks,
        style=Markup(_read("page.css")),
        script=Markup(_read("page.js")),
        svg=Markup,  # of pictures: matplotlib has escaped the words in it
        split=_split,
        classes=_classes,
        order=order_told,
        glued=_glued,
        breakable=_breakable,
        heat=_heat,
        paint=paint,
        outline=outline,
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _code(text: str) -> Markup:
    """Our own words, with what stands in backticks as code."""
    pieces = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece)
        for place, piece in enumerate(pieces)
    )


def _kind(block: object) -> str:
    """What a block is, in a word for the template."""
    return type(block).__name__.lower()


def _split(cell: Cell) -> tuple[str, str]:
    """The backend, and the rest of a contestant's name."""
    if cell.who and cell.text.startswith(cell.who):
        return cell.who, cell.text.removeprefix(cell.who).lstrip("/")
    return cell.text, ""


def _classes(cell: Cell, kind: str) -> str:
    """How a cell looks: one of words alone has no class, as most have none."""
    is_long = kind == "word" and not cell.who and len(cell.text) > _LONG
    looks = ("" if kind == "word" else kind, cell.tone, "long" if is_long else "")
    return " ".join(filter(None, looks))


def order_told(cell: Cell) -> str:
    """By what its column is sorted, where its text does not begin with that number (page.js)."""
    rank, shown = cell.rank, replace(cell, order=None).rank
    if rank is None or (shown is not None and abs(rank - shown) <= _AS_SHOWN * abs(rank)):
        return ""
    return f"{rank:.6g}"


def _glued(text: str) -> str:
    """A figure that goes to a new line only where what belongs to it begins: 0.3 | [0.2, 0.4]."""
    return _INSIDE.sub("\N{NO-BREAK SPACE}", text)


def _breakable(name: str) -> Markup:
    """A name that may go on in a new line: peer: | theirs[ | kernel]."""
    pieces = (escape(piece) for piece in _PARTS.split(name))
    return Markup("<wbr>").join(pieces)


def _heat(value: float) -> int:
    """Percent of the colour behind a cell: none up to half of the best."""
    return round(max(0.0, min(1.0, 2 * value - 1)) ** 2 * 34)
