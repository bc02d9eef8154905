"""What was found is kept line by line, is read back, and is a table whatever it is."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ring_attn_bench.bench.suite import Entry
from ring_attn_bench.errors import FileError
from ring_attn_bench.longest import as_json, terminal
from ring_attn_bench.longest.progress import LongestProgress
from ring_attn_bench.longest.run import of_length, wanted
from ring_attn_bench.longest.search import Lengths
from ring_attn_bench.records import limit as limits
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.limit import Limit
from ring_attn_bench.records.status import Status

RUN = Path(__file__).parents[3] / "results" / "2026-12-01_1xH200_longest"


@pytest.fixture
def make_limit(make_case, make_contestant):
    def make(backend="triton", direction=Direction.FORWARD, **fields):
        known = {
            "longest": 4096, "failed_at": 8192, "status": Status.OOM, "reason": "tried 1 GiB",
            "most": 65536, "tried": 6, "environment": {"gpu": None}, "seconds": 2.5,
        }  # fmt: skip
        return Limit(
            case=make_case(), contestant=make_contestant(backend=backend), direction=direction,
            **(known | fields),
        )  # fmt: skip

    return make


def test_limits_are_read_as_they_were_kept_and_the_last_of_a_key_counts(tmp_path, make_limit):
    first, other = make_limit(), make_limit("aten", longest=None, status=Status.UNSUPPORTED)
    newer = make_limit(longest=6144)
    for one in (first, other, newer):
        limits.append(tmp_path, one)
    assert limits.read(tmp_path) == (newer, other)
    assert newer.total == 6144 * newer.case.world_size
    assert limits.read(tmp_path / "nothing") == ()


@pytest.mark.parametrize(
    ("window", "cells"), [((-1, -1), ("", "")), ((128, -1), ("128", "")), ((0, 64), ("0", "64"))]
)
def test_an_open_window_is_empty_in_the_sheet_as_in_that_of_results(make_limit, window, cells):
    limit = make_limit()
    limit = limit.model_copy(update={"case": limit.case.model_copy(update={"window": window})})

    assert (limit.cells()["window_left"], limit.cells()["window_right"]) == cells


def test_half_a_line_is_taken_out_and_said(tmp_path, make_limit):
    limits.append(tmp_path, make_limit())
    path = tmp_path / limits.LIMITS
    path.write_text(path.read_text() + '{"schema_version":1,"case"')
    told = []
    limits.mend(tmp_path, told.append)
    assert len(told) == 1
    assert limits.read(tmp_path) == (make_limit(),)


def test_a_line_that_is_none_is_a_sentence(tmp_path):
    (tmp_path / limits.LIMITS).write_text('{"schema_version":1,"longest":"far"}\n')
    with pytest.raises(FileError, match="not a limit"):
        limits.read(tmp_path)


def test_no_cell_of_the_sheet_is_a_formula(tmp_path, make_limit):
    path = limits.write_sheet(tmp_path, [make_limit(reason="=1+1", failed_at=None, longest=None)])
    head, line = path.read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert cells["reason"] == "'=1+1"
    assert (cells["longest_per_gpu"], cells["failed_at_per_gpu"]) == ("", "")


def test_the_table_has_the_longest_first_and_says_what_happens(make_limit):
    every = [
        make_limit("aten"),
        make_limit("triton", longest=65536, failed_at=None, status=Status.OK, reason=""),
    ]
    lines = terminal.table(every, 120).splitlines()[2:]
    assert "65,536" in lines[0]
    assert "no limit found" in lines[0]
    assert "oom: tried 1 GiB" in lines[1]
    assert limits.failures(every) == 0
    assert json.loads(as_json.text(every))["limits"][0]["longest"] == 4096


def test_the_limits_of_a_run_fit_a_terminal_of_80_columns():
    every = limits.read(RUN)
    shown = terminal.table(every, 80)

    assert len(every) == 4
    assert max(map(len, shown.splitlines())) <= 80
    assert "oom: out of memory: CUDA out of memory." in shown


def test_lengths_of_a_suite_are_asked_about_once(make_case, make_contestant):
    entries = [
        Entry(case=make_case(seqlen_total=tokens), contestant=make_contestant(),
              directions=tuple(Direction))
        for tokens in (8192, 16384)
    ]  # fmt: skip
    every = wanted(entries, Lengths(256, 4096, 0.05))
    assert [one.direction for one in every] == list(Direction)
    assert {one.entry.case.seqlen_per_gpu for one in every} == {256}
    assert of_length(entries[0], 512).case.seqlen_per_gpu == 512


def test_results_stand_under_the_case_that_they_are_of(make_case, make_contestant, make_limit):
    written = StringIO()
    with LongestProgress(Console(file=written, width=100), 3) as progress:
        for causal, tokens in ((True, 1024), (True, 2048), (False, 1024)):
            case = make_case(causal=causal)
            entry = Entry(case=case, contestant=make_contestant(), directions=(Direction.FORWARD,))
            progress.trying(of_length(entry, tokens), Direction.FORWARD, tokens)
            progress.found(make_limit())
    lines = written.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0:00", "1/3", "2/3", "0:00", "3/3"]
    assert "_causal" in lines[0]
    assert "_full, about " in lines[3]
    assert not re.search(r"_s\d+", written.getvalue())
