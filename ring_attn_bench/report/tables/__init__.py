"""Tables for a terminal of 100 columns and for markdown, one file for each topic."""

from ring_attn_bench.report.tables.accuracy import accuracy
from ring_attn_bench.report.tables.cached import cached
from ring_attn_bench.report.tables.exactness import exactness
from ring_attn_bench.report.tables.gaps import gaps, untimed
from ring_attn_bench.report.tables.overview import overview
from ring_attn_bench.report.tables.speed import speed
from ring_attn_bench.report.tables.suspicious import suspicious
from ring_attn_bench.report.tables.verdict import Failure, counts, failures
from ring_attn_bench.text.table import WIDTH, Table, fold

__all__ = [
    "WIDTH",
    "Failure",
    "Table",
    "accuracy",
    "cached",
    "counts",
    "exactness",
    "failures",
    "fold",
    "gaps",
    "overview",
    "speed",
    "suspicious",
    "untimed",
]
