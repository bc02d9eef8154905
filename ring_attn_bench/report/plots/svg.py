"""A picture as an SVG element of a page: its words stay words, and it weighs little.

What matplotlib writes is three times as long as what it says: every element has an id, a group of
its own and a style in full. Here ids are those that something refers to, groups those that do
something, and a style that comes again is a class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

from matplotlib import rc_context
from matplotlib.figure import Figure

from ring_attn_bench.report.plots.canvas import BEHIND, GREY, GRID, any_letter, as_they_are

_POINTS = 72
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PARTS = {
    "#000000": "ink", GREY.lower(): "soft", GRID.lower(): "line", "#ffffff": "paper",
    BEHIND.lower(): "behind", "#0072b2": "blue", "#009e73": "green",
}  # fmt: skip
"""By colour, what of a page it stands for, or its name: where paper is dark it is lighter."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
_REFERENCE = re.compile(r"#([\w.-]+)\)")
_FONT = re.compile(r";? *font-family: [^;]*")
_NO_TURN = re.compile(r"rotate\(-?0 [^)]*\)")
_PLACES = ("d", "x", "y", "transform", "points")
_HREF = "{http://www.w3.org/1999/xlink}href"
_UNSEEN = ("fill:none", "fill:none;opacity:0")
_LEFT_OUT = ("metadata", "style")


def svg(figure: Figure, name: str) -> str:
    """The picture as an element of a page that has others: ids and classes begin with its name.

    What is neither ink nor paper by colour alone is the page's own, which may be dark: `--ink`,
    `--soft`, `--line`, `--paper` and so on, see `_PARTS`.
    """
    as_they_are(figure)
    drawn = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), any_letter():
        figure.savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
    # our own figure's, and no file of others; names in it may have letters that no XML has
    root = ElementTree.fromstring(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", drawn.getvalue()))
    width = figure.get_figwidth() * _POINTS
    size = f"max-width: {1.35 * width:.0f}px; min-width: {0.8 * width:.0f}px"
    return _Slim(name).whole(root, size)


def paint(colour: str) -> str:
    """The colour as a page has it, whether its paper is light or dark."""
    part = _PARTS.get(colour.lower())
    return f"var(--{part})" if part else colour


@dataclass
class _Slim:
    """Writes an element again, with short names for ids and styles."""

    name: str
    styles: Counter[str] = field(default_factory=Counter)
    _ids: dict[str, str] = field(default_factory=dict)
    _classes: dict[str, str] = field(default_factory=dict)

    def whole(self, root: Element, size: str) -> str:
        """The picture, with a sheet for the styles that come again."""
        self._prune(root)
        for element in root.iter():
            self.styles.update(filter(None, [self._style(element)]))
        numbers = count()
        again = (style for style, times in self.styles.items() if times > 1)
        self._classes = {style: f"{self.name}-{next(numbers)}" for style in again}
        sheet = "".join(f".{name}{{{style}}}" for style, name in self._classes.items())
        inside = "".join(text for child in root for text in self._written(child))
        box = quoteattr(root.attrib["viewBox"])
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox={box} style={quoteattr(size)}>'
        return f"{head}<style>{escape(sheet)}</style>{inside}</svg>"

    def _written(self, element: Element) -> Iterator[str]:
        tag, style = _tag(element), self._style(element)
        inside = "".join(text for child in element for text in self._written(child))
        words = escape(element.text) if tag == "text" and element.text else ""
        if tag in ("g", "defs") and not inside:
            return
        told = "".join(self._attributes(element, tag, style))
        if tag == "g" and not told:
            yield inside
        elif inside or words:
            yield f"<{tag}{told}>{words}{inside}</{tag}>"
        else:
            yield f"<{tag}{told}/>"

    def _prune(self, element: Element) -> None:
        """Takes away what nobody sees: facts about the file, and paths without ink."""
        for child in list(element):
            is_path = _tag(child) == "path" and "id" not in child.attrib
            if _tag(child) in _LEFT_OUT or (is_path and self._style(child) in _UNSEEN):
                element.remove(child)
            else:
                self._prune(child)

    def _attributes(self, element: Element, tag: str, style: str) -> Iterator[str]:
        for name, value in element.attrib.items():
            if name in ("style", "clip-path") or (name == "id" and tag == "g"):
                continue
            shown = self._value(name, value)
            if shown:
                yield f" {'href' if name == _HREF else name}={quoteattr(shown)}"
        if style in self._classes:
            yield f" class={quoteattr(self._classes[style])}"
        elif style:
            yield f" style={quoteattr(style)}"

    def _value(self, name: str, value: str) -> str:
        if name == "id":
            return self._id(value)
        if name == _HREF:
            return f"#{self._id(value.removeprefix('#'))}"
        if name in _PLACES:
            return _placed(value)
        return _COLOUR.sub(lambda colour: paint(colour[0]), value)

    def _style(self, element: Element) -> str:
        """With what it is clipped by, so that one class says both."""
        text = _FONT.sub("", element.attrib.get("style", ""))
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if "clip-path" in element.attrib:
            parts.append(f"clip-path: {element.attrib['clip-path']}")
        short = ";".join(part.replace(": ", ":", 1) for part in parts)
        short = _COLOUR.sub(lambda colour: paint(colour[0]), short)
        return _REFERENCE.sub(lambda found: f"#{self._id(found[1])})", short)

    def _id(self, long: str) -> str:
        return self._ids.setdefault(long, f"{self.name}-{len(self._ids)}")


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _placed(value: str) -> str:
    """Places to a hundredth of a point, beyond ten to a tenth, and no space that says nothing."""
    text = _NUMBER.sub(lambda number: _rounded(float(number[0])), _NO_TURN.sub("", value))
    text = " ".join(text.split())
    return re.sub(r" ?([A-Za-z]) ?", r"\1", text) if not text.endswith(")") else text


def _rounded(number: float) -> str:
    text = f"{number:.{1 if abs(number) >= 10 else 2}f}"
    short = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if short in ("-0", "") else short
