"""Cells of the page: what they are sorted by is what they show, or is told beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.report.page.html import order_told
from ring_attn_bench.report.page.model import Cell
from ring_attn_bench.text.digits import digits, power, times


@pytest.mark.parametrize(
    ("text", "rank"),
    [("8K", 8192), ("1M", 2**20), ("1,024", 1024), ("0.53x dv", 0.53), ("<1.2e-05", 1.2e-5),
     ("0.2973 ± 12.1 %", 0.2973), ("1.39x [1.16, 1.62]", 1.39)],
)  # fmt: skip
def test_a_text_that_begins_with_its_number_is_sorted_by_it(text, rank):
    assert Cell(text).rank == pytest.approx(rank)
    assert order_told(Cell(text, rank)) == ""


@pytest.mark.parametrize("text", ["4on2", "", "zigzag", "1.2.3", "p2p"])
def test_what_is_no_number_is_sorted_as_words(text):
    assert Cell(text).rank is None
    assert order_told(Cell(text)) == ""


def test_a_text_that_says_less_than_its_cell_is_told_its_number():
    assert order_told(Cell("194 + 134", 328.0)) == "328"
    assert order_told(Cell(">10x", 12.5)) == "12.5"
    assert order_told(Cell("nobody", 3.0)) == "3"


@given(st.floats(1e-6, 1e9), st.sampled_from([digits, power, times]))
def test_rounding_as_it_is_shown_moves_no_row_by_more_than_that(value, shown):
    text = shown(value)
    told = order_told(Cell(text, value))
    assert float(told or Cell(text).rank) == pytest.approx(value, rel=0.006)
