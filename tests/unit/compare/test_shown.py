"""What people and other programs are shown of a comparison."""

import json
from xml.etree import ElementTree

import pytest

from ring_attn_bench.compare import as_json, junit, terminal
from ring_attn_bench.compare.comparison import compared
from ring_attn_bench.compare.rows import Limits
from ring_attn_bench.records.status import Status
from tests.unit.compare.synthetic_runs import side_of


@pytest.fixture
def found(make_record, make_contestant):
    """One row slower, one lost, one the same, one of each side alone."""

    def record(backend, factor=1.0, **changes):
        made = make_record(contestant=make_contestant(backend=backend), **changes)
        if made.speed is None:
            return made
        ring = [[factor * time for time in times] for times in made.speed.samples.ring]
        samples = made.speed.samples.model_copy(update={"ring": ring})
        return made.model_copy(update={"speed": made.speed.model_copy(update={"samples": samples})})

    wrong = {"status": Status.WRONG, "reason": "dk is <b>off</b>\x00 | by 3"}
    before = [record("triton"), record("aten"), record("cudnn"), record("flex")]
    after = [record("triton", 2.0), record("aten", **wrong), record("cudnn"), record("flag_gems")]
    sides = ({each.key: each for each in side} for side in (before, after))
    return compared(*map(side_of, ("old & <new>", "B"), sides), Limits())


def test_the_terminal_has_the_worst_first_and_the_verdict_last(found):
    shown = terminal.text(found, 100)

    assert max(map(len, shown.splitlines())) <= 100
    assert shown.index("aten") < shown.index("triton")
    assert "cudnn" not in shown, "it is the same"
    assert "Only in B: 1 row" in shown
    last = shown.splitlines()[-1]
    assert last == "Regression: 1 row no longer right; 1 row slower."
    assert "cudnn" in terminal.text(found, 100, every=True)


def test_one_case_alone_has_no_column_of_cases(found):
    shown = terminal.text(found, 120, every=True)

    assert "contestant" in shown
    assert "case" not in shown.split("Only in")[0]


def test_a_narrow_terminal_is_kept_to(found):
    assert max(map(len, terminal.text(found, 60, every=True).splitlines())) <= 60


def test_json_says_all_of_it_and_has_no_number_that_json_lacks(found):
    said = json.loads(as_json.text(found), parse_constant=pytest.fail)

    assert said["schema"] == 1
    assert said["regression"] is True
    by_contestant = {row["contestant"].partition("/")[0]: row for row in said["rows"]}
    assert by_contestant["triton"]["time"]["verdict"] == "SLOWER"
    assert by_contestant["triton"]["time"]["change"] == pytest.approx(1.0, abs=0.02)
    assert by_contestant["aten"]["status"] == {"before": "ok", "after": "wrong"}
    assert by_contestant["cudnn"]["regressions"] == []
    assert [row["contestant"].partition("/")[0] for row in said["only_after"]] == ["flag_gems"]


def test_junit_fails_what_is_worse_and_holds_what_others_wrote(found):
    (suite,) = ElementTree.fromstring(junit.text(found).split("\n", 1)[1])
    failed = {case.get("name").partition("/")[0]: case for case in suite if len(case)}

    assert suite.get("failures") == "2"
    assert suite.get("skipped") == "2", "rows of one side"
    assert suite.get("name") == "old & <new> and B"
    assert int(suite.get("tests")) == len(suite)
    assert failed["aten"].find("failure").get("message") == "was ok, is wrong"
    assert "dk is <b>off</b>\N{REPLACEMENT CHARACTER} | by 3" in failed["aten"].find("failure").text
    assert "ms" in failed["triton"].find("failure").text
