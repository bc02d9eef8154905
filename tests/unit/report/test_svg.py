"""What a page has of a picture: all of it, in less than half of the bytes."""

from __future__ import annotations

import re
from collections import Counter
from io import StringIO
from xml.etree import ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from ring_attn_bench.report.plots.canvas import as_they_are
from ring_attn_bench.report.plots.errors import draw_errors
from ring_attn_bench.report.plots.memory import draw_memory
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.plots.svg import svg
from ring_attn_bench.report.plots.throughput import draw_throughput
from ring_attn_bench.report.rows import rows

DRAWN = {"throughput": draw_throughput, "errors": draw_errors, "memory": draw_memory}


def raw(figure):
    """As matplotlib writes it."""
    as_they_are(figure)
    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "p"}):
        figure.savefig(text, format="svg", transparent=True)
    return text.getvalue()


@pytest.fixture(scope="module", params=DRAWN)
def both(request, sweep_records):
    found = rows(sweep_records)
    figure = DRAWN[request.param](found, Style.of(found))
    whole = raw(figure)
    figure.set_layout_engine("none")
    return whole, svg(figure, "p7")


def elements(text):
    return [(x.tag.rpartition("}")[2], x) for x in ElementTree.fromstring(text).iter()]


def test_all_words_and_markers_are_there(both):
    def said(text):
        words = [x.text for tag, x in elements(text) if tag == "text"]
        return words, Counter(tag for tag, _ in elements(text))["use"]

    assert said(both[1]) == said(both[0])


def test_what_is_referred_to_is_there_and_nothing_else_has_a_name(both):
    names = [x.get("id") for _, x in elements(both[1]) if x.get("id")]
    asked = re.findall(r"url\(#([^)]*)\)", both[1]) + re.findall(r'href="#([^"]*)"', both[1])
    assert set(asked) == set(names)
    assert len(names) == len(set(names))
    assert all(name.startswith("p7-") for name in names)


def test_every_class_is_in_its_sheet_and_every_group_does_something(both):
    (sheet,) = (x.text for tag, x in elements(both[1]) if tag == "style")
    classes = {x.get("class") for _, x in elements(both[1])} - {None}
    assert classes == set(re.findall(r"\.(p7-\d+)\{", sheet))
    assert all(x.attrib for tag, x in elements(both[1]) if tag == "g")


def test_it_weighs_less_than_half(both):
    assert len(both[1]) < 0.5 * len(both[0])


def test_words_that_look_like_markup_stay_words():
    figure = Figure()
    figure.text(0.1, 0.5, 'a < b & "c" </svg><script>')
    assert 'a < b & "c" </svg><script>' in [
        x.text for tag, x in elements(svg(figure, "p1")) if tag == "text"
    ]
    assert "<script" not in svg(figure, "p1")
