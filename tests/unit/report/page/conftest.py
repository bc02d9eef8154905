"""Pages of records, without a picture where none is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_attn_bench.report.page.build import page
from ring_attn_bench.report.page.model import Cells
from ring_attn_bench.report.plots import Gallery


class Read:
    """A page, and where things stand in it."""

    def __init__(self, records):
        self.page = page(records, Gallery((), ()), Path())

    def section(self, name):
        (found,) = (x for x in self.page.sections if x.name == name)
        return found

    def grids(self, name):
        return [block for block in self.section(name).blocks if isinstance(block, Cells)]

    def column(self, grid, head):
        place = [column.head for column in grid.columns].index(head)
        return [row[place] for row in grid.rows]

    def texts(self, grid, head):
        return [cell.text for cell in self.column(grid, head)]


@pytest.fixture(scope="session")
def read():
    return Read


@pytest.fixture(scope="session")
def sweep(sweep_records):
    return Read(sweep_records)
