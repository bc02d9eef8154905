"""Two runs of one program are the same, and what was planted in one of them is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ring_attn_bench.compare import as_json, junit, terminal
from ring_attn_bench.compare.comparison import BESIDE, OURS, PEERS, compared
from ring_attn_bench.compare.rows import HOPELESS, Limits, Verdict
from ring_attn_bench.compare.sides import side
from ring_attn_bench.records.record import Accuracy, Memory, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.options import RingOptions
from tests.unit.compare.synthetic_runs import another_run, side_of

RESULTS = Path(__file__).parents[3] / "results"
RUNS = sorted(RESULTS.glob("*/records.jsonl.gz"))
LIMITS = Limits()


@pytest.fixture(scope="module")
def measured():
    return tuple(read(RESULTS / "2026-11-29_2xH200_ring" / "records.jsonl.gz"))


def is_ours(record):
    return not record.contestant.backend.startswith("peer:")


def slept(record):
    """A factor: our ring sleeps for 2 %."""
    return 1.02 if is_ours(record) else 1.0


def verdicts(found):
    return [row.time.verdict for row in found.rows]


@pytest.mark.parametrize("path", RUNS, ids=[path.parent.name for path in RUNS])
def test_a_committed_run_is_the_same_as_itself(path):
    alone = side("it", [path])
    found = compared(alone, alone, LIMITS)

    assert len(found.rows) == len(alone.records)
    times = [row.time for row in found.rows if row.time]
    unsure = [time for time in times if time.verdict is not Verdict.SAME]
    assert all(time.verdict is Verdict.UNSURE for time in unsure)
    assert all(time.change.shows > HOPELESS for time in unsure)
    assert not found.is_regression
    assert found.only_before == found.only_after == found.differences == ()
    assert all(row.sizes == () for row in found.rows)


def test_two_runs_of_the_same_kernels_on_another_day_are_the_same_in_every_row():
    # triton's rows of both suites, four hours and another commit apart: -7 to +23 %
    runs = ("2026-11-29_2xH200_ring", "2026-11-30_2xH200_gather")
    found = compared(*(side(run, [RESULTS / run / "records.jsonl.gz"]) for run in runs), LIMITS)

    assert len(found.rows) == 20
    assert set(verdicts(found)) == {Verdict.SAME}
    assert not found.is_regression


def test_two_runs_of_one_program_say_same_in_95_of_100_rows_and_no_regression(measured):
    same, rows, alarms = 0, 0, 0
    for seed in range(8):
        pair = (side_of(str(at), another_run(measured, 2 * seed + at)) for at in range(2))
        found = compared(*pair, LIMITS)
        same += verdicts(found).count(Verdict.SAME)
        rows += len(found.rows)
        alarms += found.is_regression

    assert same >= 0.95 * rows
    assert alarms == 0


@pytest.mark.parametrize("seed", range(3))
def test_2_percent_in_our_ring_are_found_in_one_run_beside_others_though_few_rows_show_them(
    measured, seed
):
    found = compared(
        side_of("A", another_run(measured, 2 * seed)),
        side_of("B", another_run(measured, 2 * seed + 1, slept)),
        LIMITS,
    )
    together = {each.name: each for each in found.together}

    assert found.is_regression
    assert together[BESIDE].verdict is Verdict.SLOWER
    assert together[BESIDE].change.ratio == pytest.approx(1.02, abs=0.01)
    assert together[PEERS].verdict is Verdict.SAME


def test_beside_others_is_said_only_where_they_are_the_same_programs(measured):
    before = another_run(measured, 0)
    after = another_run(measured, 1, slept)
    environment = {**measured[0].environment, "driver": "other"}
    moved = {k: r.model_copy(update={"environment": environment}) for k, r in after.items()}

    names = [
        {each.name for each in compared(side_of("A", before), side_of("B", b), LIMITS).together}
        for b in (after, moved)
    ]
    assert BESIDE in names[0]
    assert names[1] == names[0] - {BESIDE}
    assert OURS in names[1]


def test_of_five_runs_each_the_rows_that_are_quiet_say_slower_themselves(measured):
    found = compared(
        side_of("A", *(another_run(measured, seed) for seed in range(5))),
        side_of("B", *(another_run(measured, seed, slept) for seed in range(9, 14))),
        LIMITS,
    )
    quiet = [row for row in found.rows if row.time.change.shows < 0.015]
    ours = [row for row in quiet if is_ours(row.before[0])]
    peers = [row for row in quiet if not is_ours(row.before[0])]

    assert len(ours) >= 5
    assert sum(row.slower for row in ours) >= 0.8 * len(ours)
    assert not any(row.slower for row in peers)


def test_a_row_that_became_a_fifth_slower_is_named_alone(measured):
    quiet = next(r for r in measured if is_ours(r) and r.case.seqlen_per_gpu == 32768)
    run = another_run(measured, 1, lambda r: 1.2 if r.key == quiet.key else 1.0)
    found = compared(side_of("A", another_run(measured, 0)), side_of("B", run), LIMITS)

    assert [row.key for row in found.rows if row.slower] == [quiet.key]
    assert found.rows[0].key == quiet.key, "the worst comes first"
    assert found.slower_together == ()


def test_a_change_below_the_effect_is_the_same_however_sure_it_is(measured):
    exact = {r.key: another_run([r], 0)[r.key] for r in measured if is_ours(r)}
    slower = another_run(measured, 0, lambda r: 1.02)
    sides = side_of("A", exact), side_of("B", {key: slower[key] for key in exact})

    assert set(verdicts(compared(*sides, Limits(effect=0.5)))) == {Verdict.SAME}


@pytest.fixture
def one(make_record):
    """A comparison of one record with itself, of which fields are changed."""

    def compare(limits=LIMITS, **changes):
        before, after = make_record(), make_record(**changes)
        (row,) = compared(
            side_of("A", {before.key: before}), side_of("B", {after.key: after}), limits
        ).rows
        return row

    return compare


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_what_was_right_and_is_not_is_a_regression_whatever_it_is_now(one, status):
    row = one(status=status, accuracy=None, speed=None, memory=None, reason="planted")

    assert row.lost
    assert row.regressions == (f"was ok, is {status.value}",)


def test_a_larger_error_is_a_regression_and_a_smaller_one_is_none(one, make_record):
    def errors(factor):
        tensors = make_record().accuracy.tensors
        changed = tensors["out"].model_copy(update={"rmse": factor * tensors["out"].rmse})
        return Accuracy(oracle="full", oracle_rows=1, tensors={**tensors, "out": changed})

    assert one(accuracy=errors(1.03)).regressions == ("more error of out",)
    assert one(accuracy=errors(1.01)).sizes == ()
    assert one(Limits(error=0.005), accuracy=errors(1.01)).regressions != ()
    (smaller,) = one(accuracy=errors(0.9)).sizes
    assert not smaller.worse


def test_the_last_bit_of_what_was_exact_is_no_regression(one, make_record):
    def errors(rmse):
        tensors = make_record().accuracy.tensors
        changed = tensors["out"].model_copy(update={"rmse": rmse, "max_abs": rmse})
        return Accuracy(oracle="full", oracle_rows=1, tensors={**tensors, "out": changed})

    exact, bit = make_record(accuracy=errors(0.0)), make_record(accuracy=errors(1e-12))
    sides = side_of("A", {exact.key: exact}), side_of("B", {bit.key: bit})
    assert compared(*sides, LIMITS).rows[0].sizes == ()


def test_one_element_that_is_twice_as_wrong_is_a_regression_too(one, make_record):
    tensors = make_record().accuracy.tensors
    changed = tensors["out"].model_copy(update={"max_abs": 2 * tensors["out"].max_abs})
    accuracy = Accuracy(oracle="full", oracle_rows=1, tensors={**tensors, "out": changed})

    assert one(accuracy=accuracy).regressions == ("more largest error of out",)


def test_more_memory_is_a_regression_beyond_a_page_and_a_percent(one):
    assert one(memory=Memory(peak_extra_bytes=[104 << 20])).regressions == ("more MiB a call",)
    assert one(memory=Memory(peak_extra_bytes=[102 << 20])).sizes == ()
    assert one(Limits(memory=0.5), memory=Memory(peak_extra_bytes=[104 << 20])).sizes == ()


def test_a_row_is_right_where_it_was_right_in_every_run(make_record):
    right = make_record()
    wrong = make_record(status=Status.WRONG, reason="planted")
    before = side_of("A", {right.key: right}, {right.key: right})
    after = side_of("B", {right.key: right}, {right.key: wrong})

    assert compared(before, after, LIMITS).rows[0].lost


def test_rows_of_one_side_are_listed_and_no_regression(make_record, make_contestant):
    ours, other = make_record(), make_record(contestant=make_contestant(backend="aten"))
    before = side_of("A", {ours.key: ours, other.key: other})
    found = compared(before, side_of("B", {ours.key: ours}), LIMITS)

    assert found.only_before == (other.key,)
    assert compared(side_of("A", {ours.key: ours}), before, LIMITS).only_after == (other.key,)
    assert not found.is_regression


def test_another_choice_of_auto_is_told(one):
    took = RingOptions(schedule="gather", grouping=(3,), slots=1, transport="p2p")
    before = side_of("A", {(r := one(took=took).after[0]).key: r})
    steps = r.model_copy(update={"took": replace(took, schedule="grouped")})

    (row,) = compared(before, side_of("B", {r.key: steps}), LIMITS).rows
    assert row.took == "schedule gather -> grouped"
    assert one(took=took).took == "", "an older record does not say what it took"


def test_what_the_programs_differ_in_is_said(make_record):
    before = make_record()
    after = make_record(environment={**before.environment, "driver": "590", "commit": "b" * 40})
    found = compared(side_of("A", {before.key: before}), side_of("B", {after.key: after}), LIMITS)

    assert found.differences == (f"commit 0123abc -> {'b' * 10}", "driver 580.95 -> 590")


@pytest.mark.parametrize(
    ("versions", "driver", "said"),
    [
        (("mine 1+aaaa", "mine 1+bbbb"), "580.95", ("backend triton mine 1+aaaa -> mine 1+bbbb",)),
        (("", "mine 1"), "580.95", ()),
        (("cuda 580.95", "cuda 590"), "590", ("driver 580.95 -> 590",)),
    ],
)
def test_two_builds_of_a_kernel_are_said_where_no_package_explains_their_versions(
    make_record, versions, driver, said
):
    old, new = versions
    before = make_record(backend_version=old)
    facts = {**before.environment, "driver": driver}
    after = make_record(backend_version=new, environment=facts)
    found = compared(side_of("A", {before.key: before}), side_of("B", {after.key: after}), LIMITS)

    assert before.contestant.backend == "triton"
    assert found.differences == said


def test_what_older_records_do_not_say_is_no_difference(make_record):
    before, after = (
        make_record(environment={**make_record().environment, **facts})
        for facts in ({"ptxas": "12.8"}, {"ptxas": "13.0", "gpu_most_watts": 700.0})
    )
    found = compared(side_of("A", {before.key: before}), side_of("B", {after.key: after}), LIMITS)

    assert found.differences == ("ptxas 12.8 -> 13.0",)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1000, "SLOWER"), (0.001, "FASTER"), (2, "UNSURE")]
)
def test_a_noisy_row_is_named_where_it_is_surely_beyond_three_times(make_record, factor, verdict):
    def timed(scale):
        made = make_record()
        times = [[scale * t] for t in (1.0, 2.0, 4.0, 8.0, 16.0, 3.0, 6.0, 1.5, 12.0)]
        samples = made.speed.samples.model_copy(update={"ring": times})
        speed = made.speed.model_copy(update={"samples": samples})
        return made.model_copy(update={"speed": speed})

    before, after = timed(1.0), timed(factor)
    sides = side_of("A", {before.key: before}), side_of("B", {after.key: after})
    (row,) = compared(*sides, LIMITS).rows

    assert row.time.change.shows > HOPELESS
    assert row.time.verdict == verdict


def between(make_record, was, now):
    pair = [make_record(**{"reason": "planted", **changes}) for changes in (was, now)]
    sides = [side_of(name, {r.key: r}) for name, r in zip("AB", pair, strict=True)]
    return compared(*sides, LIMITS)


@pytest.mark.parametrize("was", list(Status))
@pytest.mark.parametrize("now", list(Status))
def test_what_was_an_answer_and_now_fails_is_a_regression(make_record, was, now):
    found = between(make_record, {"status": was}, {"status": now})
    expected = now is not Status.OK and (
        was is Status.OK or (now.is_failure and not was.is_failure)
    )

    assert found.is_regression is expected
    listed = "Not right on both sides" in terminal.text(found, 100)
    assert listed is (was is not now)


def test_what_only_the_first_side_says_of_a_row_is_told_and_no_regression(make_record):
    tensors = make_record().accuracy.tensors
    without = {name: error for name, error in tensors.items() if name != "out"}
    accuracy = Accuracy(oracle="full", oracle_rows=1, tensors=without)

    for changes, gone in (
        ({"speed": None}, ("time",)),
        ({"accuracy": accuracy}, ("error of out",)),
        ({"accuracy": None}, tuple(f"error of {name}" for name in tensors)),
    ):
        found = between(make_record, {}, changes)
        assert found.rows[0].gone == gone
        assert not found.is_regression
        shown = terminal.text(found, 100)
        assert "What A says and B does not" in shown
        assert gone[0] in shown
        assert "1 row of which B does not say all that A says" in " ".join(shown.split())
        assert json.loads(as_json.text(found))["rows"][0]["gone"] == list(gone)
        assert f"B no longer says: {gone[0]}" in junit.text(found)
        assert between(make_record, changes, {}).rows[0].gone == ()


def test_an_error_that_is_no_number_is_not_one(make_record):
    tensors = make_record().accuracy.tensors
    nan = {**tensors, "out": tensors["out"].model_copy(update={"rmse": float("nan")})}
    accuracy = Accuracy(oracle="full", oracle_rows=1, tensors=nan)

    assert between(make_record, {}, {"accuracy": accuracy}).rows[0].gone == ("error of out",)


def in_graphs(make_record, factor, of_graph):
    """A row whose calls take so many times as long, and in a graph so many, from one to another."""

    def timed(scale, in_graph):
        made = make_record()
        ring = [[scale * t for t in times] for times in made.speed.samples.ring]
        graph = [[in_graph * 0.1 * (1 + 0.001 * at)] for at in range(20)]
        samples = made.speed.samples.model_copy(update={"ring": ring, "graph": graph})
        speed = made.speed.model_copy(update={"samples": samples})
        return made.model_copy(update={"speed": speed})

    before, after = timed(1.0, 1.0), timed(factor, of_graph)
    return compared(side_of("A", {before.key: before}), side_of("B", {after.key: after}), LIMITS)


@pytest.mark.parametrize(
    ("factor", "of_graph", "verdict", "regressions"),
    [
        (1.0, 1.0, "SAME", ()),
        (1.0, 1.2, "SLOWER", ("slower by 20.0 % in a graph",)),
        (1.5, 1.0, "SLOWER", ("slower by 50.0 %",)),
        (1.0, 0.8, "FASTER", ()),
        (0.5, 1.2, "SLOWER", ("slower by 20.0 % in a graph",)),
    ],
)
def test_a_time_in_a_graph_is_judged_too(make_record, factor, of_graph, verdict, regressions):
    found = in_graphs(make_record, factor, of_graph)
    (row,) = found.rows

    assert row.verdict == verdict
    assert row.regressions == regressions
    assert found.is_regression is bool(regressions)
    told = json.loads(as_json.text(found))["rows"][0]
    assert told["verdict"] == verdict
    assert told["graph"]["after_ms"] == pytest.approx(of_graph * told["graph"]["before_ms"])
    shown = " ".join(terminal.text(found, 200, every=True).split())
    assert "in a graph" in shown
    assert ("in a graph" in junit.text(found)) is bool(regressions)


def test_a_graph_that_b_no_longer_has_is_told_and_of_too_few_times_there_calls_say_it(make_record):
    made = make_record()

    def with_graph(times):
        samples = made.speed.samples.model_copy(update={"graph": [[t] for t in times]})
        return {"speed": made.speed.model_copy(update={"samples": samples})}

    (row,) = between(make_record, with_graph([0.1] * 9), with_graph([])).rows
    assert row.gone == ("time in a graph",)

    (row,) = between(make_record, with_graph([0.1] * 9), with_graph([0.1])).rows
    assert row.graph.change is None
    assert row.steadier is row.time.change
    assert row.verdict is Verdict.SAME
