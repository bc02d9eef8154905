"""An index of runs: each of them, and what became of a row that was measured again."""

from __future__ import annotations

import os

import pytest

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.record import append
from ring_attn_bench.report.page.history import PastRun, index
from ring_attn_bench.report.write import write_index
from tests.unit.conftest import speed


@pytest.fixture
def run(make_record, make_case, make_contestant):
    """A run of that day, with each backend at its pace."""

    def made(day, **paces):
        return [
            make_record(
                contestant=make_contestant(backend=name), started_at=f"{day}T12:00:00+00:00",
                speed=speed(make_case(), pace, make_record().direction, f"{day} {name}"),
                environment={**make_record().environment, "commit": f"c{day[-2:]}"},
            )
            for name, pace in paces.items()
        ]  # fmt: skip

    return made


def section(page, name):
    (found,) = (x for x in page.sections if x.name == name)
    return found.blocks


def test_a_row_that_became_slower_is_seen_the_slowest_first(run):
    runs = [
        PastRun.of("b", run("2026-01-02", triton=300, aten=200, cudnn=400)),
        PastRun.of("a", run("2026-01-01", triton=400, aten=201, cudnn=300)),
    ]
    page = index(runs)
    (grid,) = section(page, "history")
    assert [(row[1].text, row[2].who) for row in grid.rows] == [
        ("slower", "triton"), ("same", "aten"), ("faster", "cudnn"),
    ]  # fmt: skip
    assert grid.rows[0][0].order == pytest.approx(4 / 3, rel=0.03)
    assert grid.rows[0][-1].text == "c01 to c02"
    assert "measured again 3 times: 1 slower, 1 faster" in page.verdict


def test_a_row_is_compared_with_the_last_run_that_had_it(run):
    runs = [
        PastRun.of("a", run("2026-01-01", triton=400)),
        PastRun.of("b", run("2026-01-02", aten=200)),
        PastRun.of("c", run("2026-01-03", triton=300)),
    ]  # fmt: skip
    (grid,) = section(index(runs), "history")
    (row,) = grid.rows
    assert [cell.text for cell in row[-3:]] == ["a", "c", "c01 to c03"]


def test_what_ran_elsewhere_is_another_row(run, make_record):
    before = run("2026-01-01", triton=400)
    after = [
        record.model_copy(update={"environment": {**record.environment, "gpu": "NVIDIA H100"}})
        for record in run("2026-01-02", triton=300)
    ]
    page = index([PastRun.of("a", before), PastRun.of("b", after)])
    (words,) = section(page, "history")
    assert words.texts == ("No row was measured in two runs.",)


def test_the_newest_run_is_first_and_leads_to_its_page(run):
    page = index(
        [PastRun.of(day, run(day, triton=400)) for day in ("2026-01-01", "2026-01-02")], ["x"]
    )
    runs, others = section(page, "runs")
    assert [row[0].text for row in runs.rows] == ["2026-01-02", "2026-01-01"]
    assert runs.rows[0][0].link == "2026-01-02/report.html"
    assert others.rows[0][0].link == "x/README.md"


def test_an_index_is_written_beside_its_runs_and_into_their_readme(run, tmp_path):
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / day).mkdir()
        append(tmp_path / day / "records.jsonl", run(day, triton=400)[0])
    readme = tmp_path / "README.md"
    readme.write_text("# Mine\n<!-- runs -->\nold\n<!-- /runs -->\nend\n", encoding="utf-8")
    assert write_index(tmp_path) == [tmp_path / "index.html", readme]
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n<!-- runs -->\n")
    assert text.endswith("<!-- /runs -->\nend\n")
    assert "old" not in text
    assert "[2026-01-02](2026-01-02/report.md)" in text
    assert 'href="2026-01-01/report.html"' in (tmp_path / "index.html").read_text(encoding="utf-8")
    write_index(tmp_path)
    assert readme.read_text(encoding="utf-8") == text


def test_a_readme_that_asks_for_no_table_stays_as_it_is(run, tmp_path):
    (tmp_path / "a").mkdir()
    append(tmp_path / "a" / "records.jsonl", run("2026-01-01", triton=400)[0])
    (tmp_path / "README.md").write_text("mine\n", encoding="utf-8")
    assert write_index(tmp_path) == [tmp_path / "index.html"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine\n"


def test_a_folder_without_runs_is_a_sentence(tmp_path):
    with pytest.raises(FileError, match=r"no folder in .* holds records; name the one"):
        write_index(tmp_path)


def test_of_each_run_the_file_is_read_that_report_reads(run, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for name, day in (("records.jsonl", "2026-01-02"), ("records.jsonl~", "2026-01-03")):
        append(folder / name, run(day, triton=400)[0])
    (folder / "records.jsonl.swp").write_bytes(b"\0no text")
    old = folder / "records.jsonl.gz"
    old.write_bytes(b"older, and never read")
    os.utime(old, (0, 0))
    heard = []

    write_index(tmp_path, heard.append)

    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "2026-01-02" in page
    assert "2026-01-03" not in page
    assert [sentence for sentence in heard if "two files of records" in sentence] == heard != []


def test_half_a_record_is_told_of(run, tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "records.jsonl"
    append(path, run("2026-01-01", triton=400)[0])
    with path.open("a") as file:
        file.write('{"schema_version":')
    heard = []

    write_index(tmp_path, heard.append)

    assert heard == [f"{path}, line 2: half a record, cut off by a crash, which is left out."]
