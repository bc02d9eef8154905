"""Rows that were looked at have a picture and a link, those that lose most first."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.files import make_folder
from ring_attn_bench.records.record import append
from ring_attn_bench.records.trace import RankTrace, Span, Trace, path_of, write
from ring_attn_bench.report.page.timelines import SHOWN
from ring_attn_bench.report.plots.timeline import draw_timeline
from ring_attn_bench.report.write import write_report


def trace_of(record, ranks=2):
    spans = (
        Span(lane="launches", name="forward", start=0.1, end=2.0, step=0),
        Span(lane="keys", name="keys of step 1", start=0.05, end=2.5, step=1),
        Span(lane="waits", name="keys of step 1", start=2.0, end=2.5, step=1),
        Span(lane="launches", name="forward", start=2.5, end=4.0, step=1),
        Span(lane="gradients", name="gradients of step 1", start=4.0, end=4.5, step=1),
        Span(lane="waits", name="the end", start=4.0, end=4.0001),
    )
    case, contestant, direction = record.key
    return Trace(
        run=record.run, case=case, contestant=contestant, direction=direction, clock="CUDA events",
        ring_ms=4.4, ideal_ms=3.0,
        ranks=tuple(RankTrace(rank=at, end=4.6 - at / 10, spans=spans) for at in range(ranks)),
    )  # fmt: skip


@pytest.fixture
def run(tmp_path, make_record, make_contestant):
    """A run's folder with a record for each of eight contestants, all of which were looked at."""

    def made(out="run", count=8):
        folder = tmp_path / "run"
        for number in range(count):
            record = make_record(contestant=make_contestant(backend=f"kernel_{number}"))
            make_folder(folder)
            append(folder / "records.jsonl", record)
            write(path_of(folder, record.key), trace_of(record))
        return write_report(folder / "records.jsonl", tmp_path / out)

    return made


def test_a_page_shows_some_pictures_and_links_to_all(run, tmp_path):
    written = run()
    html, text = ((tmp_path / "run" / f"report.{end}").read_text() for end in ("html", "md"))

    assert sum("timeline_" in path.name for path in written) == 8
    assert html.count('aria-label="timeline: ') == text.count("![timeline: ") == SHOWN
    assert html.count('drawn from <a href="traces/') == SHOWN
    assert text.count("[JSON](traces/") == text.count("[PNG](plots/timeline_") == 8
    for path in (tmp_path / "run").glob("traces/*"):
        assert f"traces/{path.name}" in html


def test_a_report_elsewhere_finds_the_traces_where_they_are(run, tmp_path):
    run("elsewhere", 1)
    text = (tmp_path / "elsewhere" / "report.md").read_text()
    link = text.partition("[JSON](")[2].partition(")")[0]
    assert (tmp_path / "elsewhere" / PurePosixPath(link)).resolve().exists()


def test_a_trace_of_no_row_is_not_shown_and_a_damaged_one_is_told(
    run, tmp_path, make_record, make_case
):
    run(count=1)
    folder, told = tmp_path / "run", []
    other = make_record(case=make_case(head_dim=64))
    write(path_of(folder, other.key), trace_of(other))
    (folder / "traces" / "half.json").write_text("{")
    write_report(folder / "records.jsonl", folder, told.append)

    assert (folder / "report.md").read_text().count("![timeline: ") == 1
    (sentence,) = told
    assert "half.json is no trace of a row" in sentence


def test_a_run_without_traces_has_no_such_section(make_record, tmp_path):
    append(tmp_path / "records.jsonl", make_record())
    write_report(tmp_path / "records.jsonl", tmp_path)
    assert "Who waited when" not in (tmp_path / "report.md").read_text()


def test_the_picture_has_a_line_for_each_rank_and_one_where_the_ideal_ends(make_record):
    trace = trace_of(make_record(), ranks=3)
    figure = draw_timeline(trace)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rank 0", "rank 1", "rank 2"]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [3.0]
    ends = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "-"]
    assert ends == pytest.approx([4.6, 4.5, 4.4])
    assert len(axes.collections) == 3 * 5, "what is too short to be seen is not drawn"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "launches, by step", "waits", "keys on their way", "gradients on their way",
        "the ideal's end: one call", "the rank's end",
    ]  # fmt: skip


def test_a_call_in_which_nothing_was_seen_is_drawn_too(make_record):
    empty = trace_of(make_record()).model_copy(
        update={"ideal_ms": None, "ring_ms": None, "ranks": (RankTrace(rank=0, end=0.0),)}
    )
    (legend,) = draw_timeline(empty).legends
    assert len(legend.get_texts()) == 2


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, make_record):
    record = make_record()
    (tmp_path / "traces").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write(path_of(tmp_path, record.key), trace_of(record))
