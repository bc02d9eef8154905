"""`compare` on the command line: what it takes, what it writes, and how it ends."""

import json

import pytest

from ring_attn_bench.cli import exits
from ring_attn_bench.records.record import append
from ring_attn_bench.records.status import Status


@pytest.fixture
def run_of(tmp_path):
    """A run's folder with these records."""

    def write(name, *records):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for record in records:
            append(folder / "records.jsonl", record)
        return folder

    return write


def test_the_same_run_twice_ends_in_0(program, run_of, make_record):
    run = run_of("run", make_record())

    code, said, _ = program("compare", run, run / "records.jsonl")

    assert code == exits.Exit.RIGHT
    assert said.endswith("No regression.\n")


def test_what_became_wrong_ends_in_1_and_is_in_every_form(program, run_of, make_record, tmp_path):
    before = run_of("before", make_record())
    after = run_of("after", make_record(status=Status.WRONG, reason="planted"))
    junit = tmp_path / "new" / "junit.xml"

    code, said, _ = program("compare", before, after, "--json", "--junit", junit)

    assert code == exits.Exit.WRONG
    assert json.loads(said)["regression"] is True
    assert 'message="was ok, is wrong"' in junit.read_text()
    assert program("compare", after, before)[0] == exits.Exit.RIGHT


def test_a_folder_of_runs_is_one_side(program, run_of, make_record):
    for at in range(3):
        run_of(f"several/run_{at}", make_record())
    one = run_of("one", make_record())

    code, said, _ = program("compare", one.parent / "several", one)

    assert code == exits.Exit.RIGHT
    assert "(3 runs)" in said


def test_of_a_row_that_a_run_has_twice_the_last_counts(program, run_of, make_record):
    right = make_record()
    resumed = run_of("resumed", make_record(status=Status.ERROR, reason="planted"), right)

    assert program("compare", run_of("run", right), resumed)[0] == exits.Exit.RIGHT


def test_runs_without_a_row_in_common_are_a_mistake_and_not_the_same(
    program, run_of, make_record, make_contestant
):
    before = run_of("before", make_record())
    after = run_of("after", make_record(contestant=make_contestant(backend="aten")))

    code, out, said = program("compare", before, after)

    assert (code, out) == (exits.Exit.MISTAKE, "")
    assert len(said.splitlines()) == 1
    assert "nothing was compared" in said
    assert "triton/zigzag/p2p" in said
    assert "aten/zigzag/p2p" in said


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_where_nothing_was_measured_is_a_sentence(program, run_of, make_record, tmp_path, what):
    if what == "empty":
        (tmp_path / what).mkdir()
        (tmp_path / what / "records.jsonl").write_text("")

    code, _, said = program("compare", run_of("run", make_record()), tmp_path / what)

    assert code == exits.Exit.FILES
    assert len(said.splitlines()) == 1
    assert what in said


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_limit_that_is_none_is_a_mistake(program, run_of, make_record, value):
    run = run_of("run", make_record())

    assert program("compare", run, run, f"--effect={value}")[0] == exits.Exit.MISTAKE


def test_a_spread_between_runs_of_more_than_twice_the_time_is_a_mistake(
    program, run_of, make_record
):
    folder = run_of("a", make_record())

    assert program("compare", folder, folder, "--between", 100)[0] == 0
    status, _, said = program("compare", folder, folder, "--between", 1e308)
    assert status == 2
    assert "give at most 100 percent" in said
