"""Pages on backends over a cache, and on the matrix, say what the files of results/ hold."""

import csv
import re
from collections import Counter
from operator import attrgetter
from pathlib import Path

import pytest

from ring_attn_bench.report import csv as results_csv

RESULTS = Path(__file__).parents[2] / "results"
BACKENDS = RESULTS / "2026-12-01_1xH200_decode_backends"
COVERAGE = RESULTS / "2026-12-01_1xH200_coverage"
graph, loop = attrgetter("graph_ms"), attrgetter("latency_ms")
OTHERS = ("flash_attn_2", "flash_attn_4", "flag_gems")


def page(folder):
    return " ".join((folder / "README.md").read_text(encoding="utf-8").split())


def lines(folder):
    """Of the page's only table, without its head, by the first cell."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| ?([^|]*) \|(.*)\|$", text, re.MULTILINE)
    return {name: [x.strip() for x in rest.split("|")] for name, rest in found[1:]}


def shape(row):
    """As the page names it."""
    extras = {
        f"{row.queries} queries": row.queries > 1,
        f"pages of {row.page}": row.page,
        f"head dim {row.head_dim}": row.head_dim != 128,
        "rotary and append": row.rotary,
        "append": row.append and not row.rotary,
        f"{row.splits} splits": row.splits,
        f"window {row.window_left or 0:,}": row.window_left,
        "softcap": row.softcap,
    }
    said = [name for name, has in extras.items() if has]
    return ", ".join([f"{row.batch} x {row.seqlen_per_gpu // 1024}K", *said])


@pytest.fixture(scope="module")
def measured():
    found = results_csv.read(BACKENDS / "results.csv")
    return {(shape(row), row.backend): row for row in found}


def cell(row, ours):
    if row is None:
        return ""
    if row.status.value != "ok":
        return "refused"
    return f"{graph(row) / graph(ours):.2f} ({loop(row) / loop(ours):.2f})"


def test_the_table_of_backends_over_a_cache_is_that_of_the_records(measured):
    table = lines(BACKENDS)
    assert table.keys() == {name for name, _ in measured}
    for name, (ms, *cells) in table.items():
        ours = measured[name, "triton"]
        assert ms == f"{graph(ours):.4f} ({loop(ours):.4f})"
        assert cells == [cell(measured.get((name, x)), ours) for x in OTHERS], name


def test_none_of_them_is_ahead_of_triton_over_a_cache(measured):
    right = [row for row in measured.values() if row.status.value == "ok"]
    assert f"{len(measured)} records, the {len(right)} that ran all right" in page(BACKENDS)
    assert "**Ahead of triton** is none of them" in page(BACKENDS)
    for row in right:
        for time in (graph, loop):
            assert time(row) >= time(measured[shape(row), "triton"])


def test_the_page_of_the_matrix_counts_its_findings_by_backend():
    with (COVERAGE / "coverage.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    table = lines(COVERAGE)
    here = {x["backend"] for x in found if not x["reason"].startswith("unavailable")}
    assert table.keys() == here
    for name, (right, refused, cache) in table.items():
        of = Counter(x["verdict"] for x in found if x["backend"] == name)
        over = Counter(
            x["verdict"] for x in found
            if x["backend"] == name and x["direction"] == "forward"
            if re.match(r"cache(_|$)", x["feature"])
        )  # fmt: skip
        assert (int(right), int(refused)) == (of["ok"], of["unsupported"]), name
        assert f"forward: ok of {over.total()} |" in page(COVERAGE)
        assert cache == f"{over['ok']}" + f", and {of['wrong']} wrong" * bool(of["wrong"]), name
