"""The whole report from one file: what is written, from what, and that it needs no torch."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records.record import append, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.report import csv
from ring_attn_bench.report.rows import rows
from ring_attn_bench.report.write import failures, summary, write_report

CHECKOUT = Path(__file__).parents[3]


def dump(records):
    return "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)


@pytest.fixture(scope="session")
def sweep_report(sweep_records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "records.jsonl").write_text(dump(sweep_records), encoding="utf-8")
    return write_report(folder / "records.jsonl", folder / "out")


def test_a_report_is_a_table_a_page_and_pictures(sweep_report):
    table, text, page, *pictures = sweep_report
    assert [path.name for path in (table, text, page)] == [
        "results.csv",
        "report.md",
        "report.html",
    ]
    assert {picture.parent.name for picture in pictures} == {"plots"}
    assert all(path.stat().st_size for path in sweep_report)


def test_the_page_embeds_every_picture(sweep_report):
    _, markdown, html, *pictures = sweep_report
    text, page = (path.read_text(encoding="utf-8") for path in (markdown, html))
    for picture in pictures:
        assert f"](plots/{picture.name})" in text
        assert f'href="plots/{picture.name}"' in page
    assert page.count('<figure class="plot">') == len(pictures)


def test_the_page_tells_what_where_and_how(sweep_report, sweep_records):
    text = sweep_report[1].read_text(encoding="utf-8")
    assert text.startswith("# Ring attention on 4 x NVIDIA H200\n")
    assert "median over iterations of the slowest rank's time" in text.replace("The m", "m")
    assert "CUDNN_STATUS_EXECUTION_FAILED" in text
    assert "580.95" in text
    assert sweep_records[0].command in text


def test_the_file_holds_every_record(sweep_report, sweep_records):
    assert csv.read(sweep_report[0]) == rows(sweep_records)


def test_a_line_that_was_cut_off_costs_only_itself(make_record, make_case, tmp_path):
    records = [make_record(), make_record(case=make_case(causal=False))]
    path = tmp_path / "records.jsonl"
    path.write_text(dump(records)[:-200], encoding="utf-8")
    table = write_report(path, tmp_path)[0]
    assert csv.read(table) == rows(records[:1])


def test_compressed_records_give_the_same_table(make_record, tmp_path):
    plain, packed = tmp_path / "records.jsonl", tmp_path / "records.jsonl.gz"
    append(plain, make_record())
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = (write_report(path, tmp_path / path.suffix)[0] for path in (plain, packed))
    assert one.read_bytes() == other.read_bytes()


def test_of_a_resumed_run_the_last_record_counts(make_record, tmp_path):
    path = tmp_path / "records.jsonl"
    records = [make_record(status=Status.TIMEOUT, reason="no answer"), make_record()]
    for record in records:
        append(path, record)
    assert [row.status for row in csv.read(write_report(path, tmp_path)[0])] == [Status.OK]
    assert failures(records) == 0
    assert "0 failures in 1 record" in summary(records)


def test_failures_are_counted_and_refusals_are_not(make_record, make_contestant):
    records = [
        make_record(contestant=make_contestant(backend=status.value), status=status, reason="so")
        for status in Status
    ]
    assert failures(records) == 3


def test_no_records_is_an_error_with_the_file_in_it(tmp_path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(InvalidArgument, match=r"cannot read .*records\.jsonl"):
        write_report(path, tmp_path)
    path.touch()
    with pytest.raises(InvalidArgument, match=r"records\.jsonl holds no records"):
        write_report(path, tmp_path)


def loaded_after(code):
    """Which of the heavy packages a fresh process has loaded after the code."""
    names = "('torch', 'triton', 'pandas', 'matplotlib')"
    code += f"\nimport sys; print(*[name for name in {names} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return found.stdout.split()


def test_a_summary_needs_neither_torch_nor_pandas_nor_matplotlib():
    assert loaded_after("import ring_attn_bench.report.write") == []


def test_a_whole_report_needs_no_torch(make_record, tmp_path):
    append(tmp_path / "records.jsonl", make_record())
    code = (
        "from pathlib import Path\n"
        "from ring_attn_bench.report.write import write_report\n"
        f"write_report(Path({str(tmp_path / 'records.jsonl')!r}), Path({str(tmp_path)!r}))"
    )
    assert loaded_after(code) == ["pandas", "matplotlib"]


FROM_A_NOTEBOOK = """
import os, sys
from pathlib import Path
records, folder = map(Path, sys.argv[1:])
from ring_attn_bench.report.write import write_report
print(*write_report(records, folder))
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("named", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_pictures_are_drawn_whatever_backend_a_notebook_has_named(make_record, tmp_path, named):
    append(tmp_path / "records.jsonl", make_record())
    done = subprocess.run(
        [sys.executable, "-c", FROM_A_NOTEBOOK, tmp_path / "records.jsonl", tmp_path / "out"],
        cwd=CHECKOUT, env=os.environ | {"MPLBACKEND": named}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ".png" in done.stdout
    assert done.stdout.splitlines()[-1] == named
    done = subprocess.run(
        [sys.executable, "-m", "ring_attn_bench", "report", tmp_path],
        cwd=CHECKOUT, env=os.environ | {"MPLBACKEND": named}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_names_with_a_dollar_are_drawn_as_they_are(make_record, make_contestant, tmp_path):
    record = make_record(contestant=make_contestant(backend=r"of$\undefined{$"))
    environment = {**record.environment, "gpu": r"$_{$ GPU"}
    record = record.model_copy(update={"environment": environment})
    append(tmp_path / "records.jsonl", record)
    assert any(path.suffix == ".png" for path in write_report(tmp_path / "records.jsonl", tmp_path))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["\U0001f600日本", "a\x1b[31mX\x07\n", "x" * 200])
def test_a_name_that_no_font_has_is_drawn_without_a_warning(
    make_record, make_contestant, tmp_path, name
):
    append(tmp_path / "records.jsonl", make_record(contestant=make_contestant(backend=name)))
    assert any(path.suffix == ".png" for path in write_report(tmp_path / "records.jsonl", tmp_path))
    assert "\x1b" not in summary(read(tmp_path / "records.jsonl"))


@pytest.mark.filterwarnings("error")
def test_rates_that_are_all_zero_are_drawn_without_a_warning(make_record, make_case, tmp_path):
    for tokens in (8192, 16384):
        record = make_record(case=make_case(seqlen_total=tokens))
        speed = record.speed.model_copy(update={"useful_flops": 0})
        append(tmp_path / "records.jsonl", record.model_copy(update={"speed": speed}))
    assert any("throughput" in x.name for x in write_report(tmp_path / "records.jsonl", tmp_path))
