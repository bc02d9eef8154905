"""Every run that was committed, of whatever schema, has its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_attn_bench.records.record import read
from ring_attn_bench.report.page.build import page
from ring_attn_bench.report.page.html import html
from ring_attn_bench.report.page.markdown import markdown
from ring_attn_bench.report.plots import Gallery

RESULTS = Path(__file__).parents[4] / "results"
RUNS = sorted(path.parent for path in RESULTS.glob("*/records.jsonl.gz"))


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_a_committed_run_has_its_page_in_both_forms(folder):
    records = list(read(folder / "records.jsonl.gz"))
    made = page(records, Gallery((), ()), folder)
    text, web = markdown(made), html(made)
    for section in made.sections:
        assert f"\n## {section.title}\n" in text
        assert f'<section id="{section.name}">' in web
    assert all(record.command in text for record in records if "*" not in record.command)


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_what_is_committed_beside_records_is_what_the_page_needs(folder):
    web = (folder / "report.html").read_text(encoding="utf-8")
    assert len(web) < 1.5e6
    pictures = sorted(path.name for path in (folder / "plots").iterdir())
    assert pictures == sorted(name for name in pictures if f'href="plots/{name}"' in web)
