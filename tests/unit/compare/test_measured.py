"""Runs of one H200 (runs/README.md): of one commit, and of a build that sleeps for 2 %."""

from dataclasses import replace
from pathlib import Path

import pytest

from ring_attn_bench.compare import terminal
from ring_attn_bench.compare.comparison import (
    ANOTHER_CARD,
    BESIDE_PACKAGES,
    NOT_IN_A_GRAPH,
    compared,
)
from ring_attn_bench.compare.rows import Limits, Verdict
from ring_attn_bench.compare.sides import side

BESIDE_THEIRS = BESIDE_PACKAGES.format("triton")


def run(name):
    return side(name, [Path(__file__).parent / "runs" / f"{name}.jsonl.gz"])


def on_card(of, card):
    """The same run, as if it said on which GPU it was."""

    def moved(record):
        return record.model_copy(update={"environment": {**record.environment, "gpu_cards": card}})

    return replace(of, records={key: tuple(map(moved, each)) for key, each in of.records.items()})


def scaled(of, factor):
    """The same run, each list of times so many times as long; factor: by its record and name."""

    def changed(record):
        if record.speed is None:
            return record
        samples = record.speed.samples
        update = {
            name: [[factor(record, name) * t for t in ranks] for ranks in getattr(samples, name)]
            for name in ("ring", "graph")
        }
        speed = record.speed.model_copy(update={"samples": samples.model_copy(update=update)})
        return record.model_copy(update={"speed": speed})

    return replace(of, records={key: tuple(map(changed, each)) for key, each in of.records.items()})


def together(found):
    return {each.name: each for each in found.together}


def test_two_runs_of_one_commit_are_the_same_in_95_of_100_rows_and_no_regression():
    found = compared(run("first"), run("second"), Limits())
    said = [row.verdict for row in found.rows]

    assert len(said) == 72
    assert said.count(Verdict.SAME) >= 0.95 * len(said)
    assert not found.is_regression
    assert {each.verdict for each in found.together} == {Verdict.SAME}


@pytest.mark.parametrize("before", ["first", "second"])
def test_a_build_that_sleeps_for_2_percent_is_slower_and_nobody_else_is(before):
    found = compared(run(before), run("slept"), Limits())
    sums = together(found)

    assert found.is_regression
    assert sums["triton"].verdict is Verdict.SLOWER
    assert sums[BESIDE_THEIRS].verdict is Verdict.SLOWER
    assert sums[BESIDE_THEIRS].change.ratio == pytest.approx(1.02, abs=0.003)
    assert sums["cudnn"].verdict is sums["flash_attn_2"].verdict is Verdict.SAME
    slower = {row.before[0].contestant.backend for row in found.rows if row.slower}
    assert slower <= {"triton"}


def test_the_other_way_round_it_is_faster_and_no_regression():
    found = compared(run("slept"), run("second"), Limits())

    assert together(found)[BESIDE_THEIRS].verdict is Verdict.FASTER
    assert not found.is_regression


def test_a_graph_says_what_a_host_leaves_open():
    found = compared(run("first"), run("second"), Limits())
    both = [row for row in found.rows if row.graph and row.graph.change]
    loops = sorted(row.time.change.shows for row in both)
    graphs = sorted(row.graph.change.shows for row in both)

    assert len(both) >= 20
    assert graphs[len(both) // 2] < 0.03 < 0.3 < loops[len(both) // 2]
    assert all(row.steadier is row.graph.change for row in both)


def test_on_another_card_little_is_said_and_nobody_is_held_against_others():
    same = compared(on_card(run("first"), "a1"), on_card(run("slept"), "a1"), Limits())
    other = compared(on_card(run("first"), "a1"), on_card(run("slept"), "b2"), Limits())

    assert together(same)[BESIDE_THEIRS].verdict is Verdict.SLOWER
    assert BESIDE_THEIRS not in together(other)
    assert not other.is_regression
    assert min(row.time.change.shows for row in other.rows) > 2 * ANOTHER_CARD
    assert "gpu_cards a1 -> b2" in other.differences


@pytest.mark.parametrize("before", ["first", "second"])
@pytest.mark.parametrize("factor", [0.9, 0.95])
def test_a_package_that_became_faster_makes_no_kernel_slower_beside_it(before, factor):
    def faster(record, name):
        return factor if record.contestant.backend == "cudnn" else 1.0

    found = compared(run(before), scaled(run("second"), faster), Limits())

    assert any(row.verdict is Verdict.FASTER for row in found.rows)
    assert together(found)[BESIDE_THEIRS].verdict is Verdict.SAME, "flash_attn_2 did not move"
    assert not found.is_regression


@pytest.mark.parametrize("before", ["first", "second"])
def test_a_host_that_takes_twice_as_long_for_short_calls_is_a_regression_though_graphs_are_the_same(
    before,
):
    def host(record, name):
        return 2.0 if name == "ring" and record.speed.samples.graph else 1.0

    sums = together(compared(run(before), scaled(run("second"), host), Limits()))

    assert sums[NOT_IN_A_GRAPH].verdict is Verdict.SLOWER
    assert sums[NOT_IN_A_GRAPH].change.ratio == pytest.approx(2.0, rel=0.02)
    assert sums["triton"].verdict is Verdict.SAME


def test_the_same_cards_but_not_as_often_are_other_cards():
    def runs(*cards):
        each = [on_card(run("first"), card) for card in cards]
        keys = each[0].records
        return replace(
            each[0], runs=len(each), records={k: tuple(x.records[k][0] for x in each) for k in keys}
        )

    def shared(before, after):
        return compared(before, after, Limits()).limits.shared

    assert shared(runs("a1", "a1", "b2"), runs("a1", "b2", "b2")) == ANOTHER_CARD
    assert shared(runs("a1", "b2"), runs("a1", "b2")) == Limits().shared
    assert shared(runs("a1"), runs("a1", "a1")) == Limits().shared
    assert shared(runs("a1"), runs("a1", "b2")) == ANOTHER_CARD


@pytest.mark.parametrize("page", ["comparing.md", "comparing.zh-CN.md"])
def test_the_table_that_is_documented_is_what_is_said_of_these_runs(page):
    documented = (Path(__file__).parents[3] / "docs" / page).read_text(encoding="utf-8")
    table = documented.partition("```text\n")[2].partition("```")[0]
    said = terminal.text(compared(run("second"), run("slept"), Limits()), 100)

    assert table.startswith("Times taken together")
    assert said.endswith(table.rstrip("\n"))
