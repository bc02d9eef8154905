"""coverage.csv and what is made of it; and how tasks are dealt out to those who ask."""

import re
from itertools import product
from unittest.mock import Mock

import pytest
from PIL import Image

from ring_attn_bench.conformance.features import CHAPTERS, FEATURES, select
from ring_attn_bench.errors import InvalidArgument, UnknownName
from ring_attn_bench.probe.run import kept
from ring_attn_bench.probe.status_changes import changes
from ring_attn_bench.probe.tasks import PATIENCE, Task, Tasks
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.finding import Finding, read, write
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.coverage import write_coverage
from ring_attn_bench.report.coverage.markdown import page
from ring_attn_bench.report.coverage.matrix import Matrix
from ring_attn_bench.report.coverage.terminal import text as terminal
from ring_attn_bench.text.table import WIDTH

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
BOTH = (FORWARD, BACKWARD)
MANY = [f"some_backend_{number}" for number in range(17)]


def finding(backend="triton", feature="causal", direction=FORWARD, verdict=Status.OK, reason=""):
    return Finding(
        backend=backend, feature=feature, direction=direction, verdict=verdict, reason=reason,
        version=f"{backend} 1.0", device="NVIDIA H200", torch="2.11.0",
    )  # fmt: skip


def whole(backends=("triton", "aten")):
    return [finding(*cell) for cell in product(backends, FEATURES, BOTH)]


WRONG = finding(feature="softcap", verdict=Status.WRONG, reason="out is out by 1; allowed is 0")
REFUSED = finding(
    feature="dropout", direction=BACKWARD, verdict=Status.UNSUPPORTED,
    reason='it has no dropout, "none" (at all)',
)  # fmt: skip


# the file


def test_findings_are_read_as_they_were_written(tmp_path):
    findings = (finding(), WRONG, REFUSED)
    write(findings, tmp_path / "coverage.csv")

    assert read(tmp_path / "coverage.csv") == findings
    assert read(tmp_path) == findings
    head = (tmp_path / "coverage.csv").read_text().splitlines()[0]
    assert head == "backend,feature,direction,verdict,reason,version,device,torch"


def test_a_file_that_is_no_matrix_is_a_sentence(tmp_path):
    (tmp_path / "coverage.csv").write_text("backend,feature\ntriton,causal\n")
    with pytest.raises(InvalidArgument, match="is no coverage"):
        read(tmp_path)
    with pytest.raises(InvalidArgument, match="cannot read"):
        read(tmp_path / "nowhere.csv")


def test_what_differs_between_two_files_is_a_verdict_or_a_row():
    other = finding(reason="in 2 blocks")
    now_wrong = finding(verdict=Status.WRONG, reason="it is out")

    assert changes([finding()], [other]) == ()
    assert [str(x) for x in changes([finding()], [now_wrong])] == [
        "triton causal forward: ok -> wrong (it is out)"
    ]
    assert [str(x) for x in changes([finding(), WRONG], [finding(), REFUSED])] == [
        "triton softcap forward: wrong -> none (out is out by 1; allowed is 0)",
        'triton dropout backward: none -> unsupported (it has no dropout, "none" (at all))',
    ]


def test_a_matrix_is_put_together_from_several_runs_on_one_device(tmp_path):
    path, watcher = tmp_path / "coverage.csv", Mock()
    order = [Task("triton", "causal", way) for way in BOTH] + [Task("aten", "full", FORWARD)]
    write([finding("aten", "full"), finding("old", "full")], path)

    keeper = kept(path, order, watcher, "NVIDIA H200", "2.11.0")
    keeper.done(order[1], [finding(direction=BACKWARD)])
    keeper.end()
    keeper.done(order[0], [finding()])

    assert [found.backend for found in read(path)] == ["triton", "aten", "old"]
    assert watcher.done.call_count == 1
    with pytest.raises(InvalidArgument, match="another folder"):
        kept(path, order, watcher, "NVIDIA B200", "2.11.0")


# what is shown


def test_the_table_fits_a_terminal_however_many_backends_there_are():
    shown = terminal(whole(MANY))
    table = shown[: shown.index("\n\n✓")]
    assert max(map(len, table.splitlines())) <= WIDTH
    for number in range(17):
        assert re.search(rf"\b{number}\b", table)
    assert table.count("grouped heads (GQA)") > 1  # in several tables


def test_what_is_not_on_this_machine_is_not_counted_as_refused():
    why = "unavailable: importing it failed"
    absent = [
        finding("gone", feature, direction, Status.UNSUPPORTED, why)
        for feature in ("causal", "full") for direction in BOTH
    ]  # fmt: skip
    found = [finding(), REFUSED, *absent]
    counts = "6 findings: 1 ok, 1 unsupported, 4 not on this machine (gone)."

    assert counts in terminal(found)
    assert counts in page(Matrix.of(found), "coverage.png")


def test_a_cell_shows_both_directions_where_they_differ_and_one_where_not():
    found = {x.key: x for x in whole()} | {WRONG.key: WRONG, REFUSED.key: REFUSED}
    shown = terminal(list(found.values()))

    assert re.search(r"^  causal +✓ +✓$", shown, re.MULTILINE)
    assert re.search(r"^  softcap +✗ ✓ +✓$", shown, re.MULTILINE)
    assert re.search(r"^  dropout +✓ - +✓$", shown, re.MULTILINE)
    assert "WRONG  triton softcap (forward): out is out by 1" in shown
    assert f"{len(found)} findings: {len(found) - 2} ok, 1 unsupported, 1 wrong." in shown


def test_the_page_gives_one_reason_for_all_that_it_keeps_from_being_right():
    refused = {
        x.key: finding("aten", x.feature, x.direction, Status.UNSUPPORTED, "it has no ALiBi")
        for x in whole(["aten"]) if x.feature in {"alibi", "alibi_offset"}
    }  # fmt: skip
    found = {x.key: x for x in whole()} | refused | {WRONG.key: WRONG}
    text = page(Matrix.of(list(found.values())), "coverage.png")

    assert (
        "**unsupported** ALiBi, own tokens; ALiBi, keys of a chunk before: it has no ALiBi" in text
    )
    assert "**wrong** softcap (forward): out is out by 1" in text
    assert "### triton (triton 1.0)" in text


def test_a_backend_that_is_not_there_has_one_line_on_the_page():
    why = "unavailable: importing it failed"
    gone = [finding(*cell, Status.UNSUPPORTED, why) for cell in product(["flash"], FEATURES, BOTH)]
    matrix = Matrix.of(whole() + gone)

    assert matrix.absent == {"flash": why}
    assert matrix.backends == ("triton", "aten")
    assert page(matrix, "").count(why) == 1
    assert f"flash is {why}" in terminal(whole() + gone)


def test_a_feature_that_has_another_name_now_is_still_shown():
    assert "a_feature_of_old" in terminal([*whole(), finding(feature="a_feature_of_old")])


@pytest.mark.parametrize("backends", [["aten"], MANY])
def test_the_picture_is_drawn_for_one_backend_and_for_many(tmp_path, backends):
    paths = write_coverage(whole(backends), tmp_path)

    assert [path.name for path in paths] == ["coverage.md", "coverage.png"]
    with Image.open(paths[1]) as picture:
        width, height = picture.size
    assert 700 < width < 2400
    assert height > 1000


# features


def test_features_have_names_that_files_and_shells_like():
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in FEATURES)
    assert len(FEATURES) == sum(len(chapter.features) for chapter in CHAPTERS)
    titles = [feature.title for feature in FEATURES.values()]
    assert len(set(titles)) == len(titles)
    assert max(map(len, titles)) <= 36


def test_features_are_chosen_by_patterns():
    assert [feature.name for feature in select(["gqa", "window_c*"])] == [
        "window_causal", "window_corner", "gqa",
    ]  # fmt: skip
    assert len(select([])) == len(FEATURES)
    with pytest.raises(UnknownName, match="softcap"):
        select(["sofcap"])


# dealing out


def tasks(**queues):
    return Tasks(
        Task(name, feature, FORWARD) for name, count in queues.items()
        for feature in list(FEATURES)[:count]
    )  # fmt: skip


def test_who_holds_a_backend_keeps_it_and_then_helps_where_most_is_left():
    dealt = tasks(slow=6, quick=1)
    assert dealt.take(None).backend == "slow"
    assert dealt.take(None).backend == "slow"  # three for each of two; one for one
    assert dealt.take(None).backend == "slow"
    assert dealt.take(None).backend == "quick"
    assert dealt.take("quick").backend == "slow"
    assert dealt.take("slow").backend == "slow"
    assert dealt.take("slow").backend == "slow"
    assert dealt.take("slow") is None


def test_every_task_is_dealt_out_once():
    dealt, found, held = tasks(a=9, b=30, c=2), [], None
    while (task := dealt.take(held)) is not None:
        found.append(task)
        held = task.backend
    assert len(found) == len(set(found)) == 41


def test_what_is_dropped_is_not_dealt_out():
    dealt = tasks(a=3, b=2)
    assert {task.backend for task in dealt.drop("a")} == {"a"}
    assert dealt.take(None).backend == "b"
    assert len(dealt.drop()) == 1
    assert dealt.take("b") is None


def test_a_direction_that_never_answers_is_given_up_and_the_other_is_not():
    dealt = Tasks(Task("slow", name, way) for name in list(FEATURES)[:8] for way in BOTH)
    asked = [dealt.take("slow") for _ in range(2 * PATIENCE)]
    assert not any(dealt.patience_with(task, timeout=False) for task in asked)
    forward = [task for task in asked if task.direction is FORWARD]
    given_up = [dealt.patience_with(task, timeout=True) for task in forward]
    assert [len(left) for left in given_up] == [0, 0, 0, 8 - PATIENCE]
    assert {dealt.take("slow").direction for _ in range(8 - PATIENCE)} == {BACKWARD}
