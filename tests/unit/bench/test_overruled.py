"""--set, --filter and --dry-run: a suite with other values, a part of it, and what it would run."""

import json
from pathlib import Path

import pytest

from ring_attn_bench.bench.grid import Grid
from ring_attn_bench.bench.overrule import KEYS, load_with
from ring_attn_bench.bench.suite import Check, Suite, Timing, load
from ring_attn_bench.errors import InvalidArgument, RingAttnBenchError, SuiteError
from ring_attn_bench.records.record import read
from tests.unit.bench.conftest import SUITE


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return path


@pytest.mark.parametrize(
    ("word", "key", "values"),
    [
        ("seqlen_per_gpu=8k,32k", "seqlen_per_gpu", [8192, 32768]),
        ("seqlen_per_gpu=1M", "seqlen_per_gpu", [2**20]),
        ("seqlen_per_gpu=[64, 128]", "seqlen_per_gpu", [64, 128]),
        ("seqlen_per_gpu=[8k,16]", "seqlen_per_gpu", [8192, 16]),
        ("partitions=[zigzag, striped]", "partitions", ["zigzag", "striped"]),
        ("grouping=[[2, 2]]", "grouping", [(2, 2)]),
        ("partitions=zigzag, striped", "partitions", ["zigzag", "striped"]),
        ("heads=32:8", "heads", ["32:8"]),
        ("causal=true,false", "causal", [True, False]),
        ("softcap=0,30.5", "softcap", [0.0, 30.5]),
        ("window=[[128, 0]]", "window", [(128, 0)]),
        ("slots=2,auto", "slots", [2, "auto"]),
        ("schedule='steps'", "schedule", ["steps"]),
    ],
)
def test_a_key_of_the_grids_is_a_list_with_commas_or_as_toml_has_it(path, word, key, values):
    grid, *_ = load_with(path, [word]).grid

    assert getattr(grid, key) == values
    others = {name: getattr(grid, name) for name in Grid.model_fields if name != key}
    (before,) = load(path).grid
    assert others == {name: getattr(before, name) for name in others}


def test_a_length_of_either_kind_replaces_those_of_the_other(path):
    (grid,) = load_with(path, ["seqlen_total=8k"]).grid

    assert (grid.seqlen_total, grid.seqlen_per_gpu) == ([8192], [])
    (grid,) = load_with(path, ["seqlen_total=8k", "seqlen_per_gpu=64"]).grid
    assert (grid.seqlen_total, grid.seqlen_per_gpu) == ([], [64])


def test_every_grid_and_what_no_grid_names_is_overruled(path):
    path.write_text(SUITE + SUITE.partition("[[grid]]")[1] + SUITE.partition("[[grid]]")[2])

    assert [grid.batch for grid in load_with(path, ["batch=2"]).grid] == [[2], [2]]


def test_other_keys_are_one_value(path):
    words = ["timing.seconds=0.5", "check.full_up_to=1k", "case_seconds=7", "seed=3", "as_ranks=4"]

    suite = load_with(path, words)

    assert (suite.timing.seconds, suite.check.full_up_to) == (0.5, 1024)
    assert (suite.case_seconds, suite.seed, suite.as_ranks) == (7.0, 3, [4])


def test_all_keys_of_a_suite_can_be_overruled():
    inner = {
        *(f"timing.{x}" for x in Timing.model_fields),
        *(f"check.{x}" for x in Check.model_fields),
    }
    whole = {*Suite.model_fields} - {"grid", "timing", "check"}

    assert set(KEYS) == {*Grid.model_fields, *inner, *whole}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("seqlen=8k", "unknown key of a suite 'seqlen'. Did you mean 'seqlen_total'?"),
        ("grid=1", "unknown key of a suite 'grid'."),
        ("timing.second=1", "Did you mean 'timing.seconds'?"),
        ("batch", "--set is 'batch'; it must be KEY=VALUE, as seqlen_per_gpu=8k,32k."),
        ("batch=", "--set is 'batch='; it must be KEY=VALUE"),
        (
            "batch=two",
            "grid.0.batch.0: Input should be a valid integer, got 'two' (read with --set",
        ),
        ("batch=[[1", "grid.0.batch: Input should be a valid list, got '[[1' (read with"),
        ("causal=1", "grid.0.causal.0: Input should be a valid boolean, got 1"),
        ("seqlen_per_gpu=9", "needs a multiple of 2 (read with --set seqlen_per_gpu=9)"),
        ("backends=no", "unknown backend 'no'."),
        ("timing.min_samples=99", "max_samples must be at least as many"),
    ],
)
def test_a_mistake_is_a_sentence_of_the_suites_own_checks(path, word, sentence):
    with pytest.raises(RingAttnBenchError) as raised:
        load_with(path, [word])

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "text", ["[2]\ncausal=[false]", "[2] # c", "2 # c", "2\ncausal=[false]", "2 }\nx = { y = 1"]
)
def test_what_stands_behind_a_value_is_refused_and_not_dropped(path, text):
    with pytest.raises(SuiteError, match="batch"):
        load_with(path, [f"batch={text}"])


@pytest.mark.parametrize("text", ["1, warmup = 9", "1 # c", "1\nwarmup = 9"])
def test_nor_is_it_where_there_is_one_value(path, text):
    with pytest.raises(SuiteError, match=r"timing\.seconds"):
        load_with(path, [f"timing.seconds={text}"])


def test_a_file_that_is_no_suite_says_what_it_is(path):
    path.write_text("grid = 1\ntiming = 2")

    with pytest.raises(InvalidArgument, match="grid: Input should be a valid list"):
        load_with(path, ["batch=2", "timing.seconds=1"])


def test_a_record_of_an_overruled_suite_has_the_command_that_measures_it_again(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --set seqlen_per_gpu=16 --set head_dim=16"
    assert typed(f"{line} --out out").exit_code == 0

    first = next(read(Path("out/records.jsonl")))

    assert (first.case.seqlen_per_gpu, first.case.head_dim) == (16, 16)
    assert typed(f"{first.command} --out again").exit_code == 0
    assert next(read(Path("again/records.jsonl"))).case == first.case


def test_a_filter_is_of_cases_and_contestants(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --backend aten --set batch=1,2 --out"

    for pattern, ran in {"b2_*": 3, "aten/*": 6, "*": 6}.items():
        machine.ran = ()
        assert typed(f"{line} {ran} --filter '{pattern}'").exit_code == 0
        assert len(machine.ran) == ran
    refused = typed(f"{line} out --filter 'b3_*'")
    assert "or either of them 'b3_*'" in str(refused.exception)


def test_a_dry_run_says_what_would_run_and_about_how_long_and_does_nothing(machine, typed):
    done = typed("ring-attn-bench bench --suite small.toml --backend reference --dry-run")

    assert done.exit_code == 0
    heading, case, contestant, time = done.output.splitlines()
    assert heading.startswith("suite small: 3 measurements on 2 ranks")
    assert case == "  b1_s16_w2_h2-1_d8_float32_causal"
    assert contestant == "    reference/zigzag/p2p  (forward, backward, forward_backward)"
    assert time.startswith("About 6 s, or from half to twice that. Worker groups to start: 1;")
    assert machine.ran == ()
    assert [path.name for path in Path().iterdir()] == ["small.toml"]


def test_a_dry_run_for_a_program_is_one_object(machine, typed):
    line = (
        "ring-attn-bench bench --suite small.toml --set backends=reference,cudnn --dry-run --json"
    )

    told = json.loads(typed(line).output)

    assert (told["schema"], told["suite"], round(told["seconds"])) == (1, "small", 6)
    assert [entry["contestant"] for entry in told["entries"]] == [
        "reference/zigzag/p2p", "cudnn/zigzag/p2p",
    ]  # fmt: skip
    able, other = told["entries"]
    assert able["case"] == "b1_s16_w2_h2-1_d8_float32_causal"
    assert able["directions"] == ["forward", "backward", "forward_backward"]
    assert able["unavailable"] is None
    assert other["unavailable"]
    assert machine.ran == ()


def test_a_program_is_told_where_no_time_can_be_foreseen(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --set seqlen_per_gpu=32k --dry-run --json"

    assert json.loads(typed(line).output)["seconds"] is None


def test_a_dry_run_of_what_is_left_leaves_out_what_is_held_and_what_cannot_run(machine, typed):
    machine.ends_after = 2
    line = "ring-attn-bench bench --suite small.toml --set backends=reference,cudnn --out out"
    typed(line)

    done = typed(f"{line} --resume --dry-run")

    assert "suite small: 4 measurements" in done.output
    assert "reference/zigzag/p2p  (forward_backward)" in done.output
    assert "3 of these 4 cannot run here" in done.output
    assert "contestants to judge: 1; times to take: 1." in done.output


def test_what_can_take_hours_on_a_cpu_is_told_without_an_estimate(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --set seqlen_per_gpu=32k --dry-run"

    said = typed(line).output

    assert "which can take hours" in said
    assert "About" not in said


def test_what_is_only_checked_is_not_timed(machine, typed):
    done = typed("ring-attn-bench check --suite small.toml --dry-run")

    assert "times to take: 0." in done.output
