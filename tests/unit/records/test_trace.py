"""A trace is what Chrome and Perfetto read, and can be read back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.trace import (
    LANES,
    RankTrace,
    Span,
    Trace,
    in_folder,
    path_of,
    read,
    slug_of,
    write,
)

SPANS = (
    Span(lane="launches", name="forward 128 rows", start=0.25, end=1.5, step=0),
    Span(lane="waits", name="keys of step 1", start=1.5, end=2.0, step=1),
    Span(lane="keys", name="keys of step 1", start=0.125, end=2.0, step=1),
)


def trace(**changes):
    fields = {
        "run": "a run", "case": "b1_s128_w2", "contestant": "aten/zigzag/p2p",
        "direction": Direction.FORWARD, "clock": "the host's", "ring_ms": 2.5, "ideal_ms": 1.75,
        "ranks": (
            RankTrace(rank=0, end=2.25, spans=SPANS), RankTrace(rank=3, end=2.5),
        ),
    }  # fmt: skip
    return Trace(**{**fields, **changes})


def test_a_trace_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "one.json"
    write(path, trace())
    assert read(path) == trace()


def test_perfetto_finds_a_process_for_each_rank_and_a_thread_for_each_lane(tmp_path):
    path = tmp_path / "one.json"
    write(path, trace())
    whole = json.loads(path.read_text())
    events = whole["traceEvents"]

    assert whole["displayTimeUnit"] == "ms"
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {0: "rank 0", 3: "rank 3"}
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert lanes == dict(enumerate(LANES))
    (first, *_) = [e for e in events if e["ph"] == "X"]
    assert first == {
        "ph": "X", "name": "forward 128 rows", "cat": "launches", "pid": 0, "tid": 0,
        "ts": 250.0, "dur": 1250.0, "args": {"step": 0},
    }  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(LANES),
            st.text(max_size=8),
            st.floats(-1e6, 1e6),
            st.floats(0, 1e6),
            st.none() | st.integers(0, 99),
        ),
        max_size=6,
    ),
    st.text(min_size=1, max_size=12),
)
def test_whatever_is_in_it_comes_back_to_a_nanosecond(tmp_path_factory, rows, name):
    spans = tuple(
        Span(lane=lane, name=text, start=start, end=start + took, step=step)
        for lane, text, start, took, step in rows
    )
    path = tmp_path_factory.mktemp("t") / "one.json"
    write(path, trace(contestant=name, ranks=(RankTrace(rank=1, end=7.0, spans=spans),)))
    (found,) = read(path).ranks

    assert [(x.lane, x.name, x.step) for x in found.spans] == [
        (x.lane, x.name, x.step) for x in spans
    ]
    for one, other in zip(found.spans, spans, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=3e-6)


def test_every_row_has_a_file_of_its_own_whatever_it_is_called():
    keys = [
        ("case", "a/b", "forward"), ("case", "a-b", "forward"), ("case", "a:b", "forward"),
        ("case", "a/b", "backward"), ("case", "x" * 300, "forward"), ("case", "x" * 301, "forward"),
        ("../case", "..", "forward"), ("case", "\N{SNOWMAN}", "forward"),
    ]  # fmt: skip
    slugs = [slug_of(key) for key in keys]
    assert len(set(slugs)) == len(keys)
    assert all(len(slug) < 200 and "/" not in slug and slug.isascii() for slug in slugs)


def test_a_file_that_is_no_trace_is_told_and_the_others_are_read(tmp_path):
    write(path_of(tmp_path, trace().key), trace())
    folder = tmp_path / "traces"
    bad = {
        "cut.json": '{"otherData": {',
        "list.json": "[1, 2]",
        "other.json": '{"traceEvents": []}',
        "lane.json": json.dumps(
            {
                "otherData": trace().model_dump(mode="json"),
                "traceEvents": [
                    {"ph": "i", "pid": 0, "ts": 1},
                    {"ph": "X", "pid": 0, "cat": "no lane", "name": "", "ts": 0, "dur": 0,
                     "args": {}},
                ],
            }
        ),
    }  # fmt: skip
    for name, text in bad.items():
        (folder / name).write_text(text)
    told = []

    assert in_folder(tmp_path, told.append) == (trace(),)
    assert len(told) == len(bad)
    assert all("is no trace of a row (" in sentence for sentence in told)


def test_a_run_without_traces_has_none(tmp_path):
    assert in_folder(tmp_path, pytest.fail) == ()


def test_where_it_cannot_be_written_a_sentence_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write(tmp_path / "file" / "one.json", trace())
