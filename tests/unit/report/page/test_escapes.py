"""Whatever others call things, a page shows it as it is, and a sheet computes nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import takewhile

import pytest

from ring_attn_bench.records.status import Status
from ring_attn_bench.report import csv, plots
from ring_attn_bench.report.page.build import page
from ring_attn_bench.report.page.html import html
from ring_attn_bench.report.page.markdown import markdown
from ring_attn_bench.report.rows import rows

HOSTILE = (
    "<script>alert(1)</script>", "=1+1", "\"><img src=x onerror=alert(1)>", "a|b", "[x](http://y)",
    "`code`", "</style></svg><b>", "{{ 7 * 7 }}", "one\n# two", "&lt;", "*star*", "'single'",
)  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page, their attributes, and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, make_record, make_contestant):
    """A page of records in which everything that others name has such a name, and their rows."""
    folder = tmp_path_factory.mktemp("page")
    records = []
    for name in HOSTILE:
        fields = {
            "environment": {"gpu": name, "torch": name, name: name, "commit": name},
            "command": f"ring-attn-bench bench {name}", "backend_version": name,
            "run": name, "suite": name,
        }  # fmt: skip
        ours = make_contestant(backend=name, partition=name)
        theirs = make_contestant(backend=f"peer:{name}")
        records.append(make_record(contestant=ours, **fields))
        records.append(
            make_record(contestant=theirs, status=Status.ERROR, reason=f"{name}: why", **fields)
        )
    gallery = plots.draw(rows(records), folder / "plots")
    return page(records, gallery, folder), rows(records), folder


@pytest.fixture(scope="module")
def plain(make_record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    gallery = plots.draw(rows([make_record()]), folder / "plots")
    return Tags(html(page([make_record()], gallery, folder)))


def test_no_name_becomes_a_tag_or_an_attribute(hostile, plain):
    found = Tags(html(hostile[0]))
    told = {"details", "summary", "div", "b", "i", "code", "use", "td", "th", "wbr"}
    known = set(plain.tags) | told
    assert set(found.tags) <= known
    assert found.tags.count("script") == 1
    assert not {x for x in found.attributes if x.startswith("on")}
    words = " ".join(" ".join(found.words).split())
    assert [name for name in HOSTILE if " ".join(name.split()) not in words] == []
    assert "49" not in words.split()


def test_no_name_ends_a_table_or_makes_a_tag_or_a_link_in_markdown(hostile):
    text = markdown(hostile[0])
    before, fenced, rest = text.partition("```sh\n")
    commands, _, after = rest.partition("\n```\n")
    lines = (before + after).splitlines()
    assert fenced
    assert all("bench" in line or line.startswith("# ") for line in commands.splitlines()[:2])
    assert [x for x in lines if "<script" in x or "<img" in x or "](http" in x] == []
    assert [x for x in lines if x.startswith("# ")] == lines[:1]
    heads = [at for at, line in enumerate(lines) if "---" in line and set(line) <= set("|-: ")]
    assert heads
    for at in heads:
        table = [*takewhile(lambda line: line.startswith("| "), lines[at - 1 :])]
        assert len({cells(line) for line in table}) == 1, table[0]


def cells(line):
    """How many a line of a table has."""
    return line.replace("\\\\", "").replace("\\|", "").count("|")


def test_results_csv_computes_nothing_and_is_read_back(hostile):
    _, found, folder = hostile
    csv.write(found, folder / "results.csv")
    text = (folder / "results.csv").read_text(encoding="utf-8")
    assert csv.read(folder / "results.csv") == found
    assert ",=1+1," not in text
    assert ",'=1+1," in text


def test_the_page_asks_nobody_for_anything(hostile):
    text = html(hostile[0])
    found = Tags(text)
    assert "default-src 'none'" in text
    assert "src" not in found.attributes
    assert "@import" not in text
