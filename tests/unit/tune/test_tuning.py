"""What a tuning run makes of its outcomes: pure logic, with outcomes that are made up."""

import re

import pytest
from pydantic import ValidationError

from ring_attn_bench.contract.tunable import Trial
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records import outcome as csv
from ring_attn_bench.records.choices import choices
from ring_attn_bench.records.outcome import Outcome, Provenance, TimedShape, TypedTrial
from ring_attn_bench.records.status import Status
from ring_attn_bench.report import tuning
from ring_attn_bench.tune.select import TrialSelection

PLACE = Provenance(
    backend="triton", version="triton 3.6.0 (plain kernels: no Hopper)", device="NVIDIA H200",
    torch="2.11.0", triton="3.6.0", commit="0123abc",
)  # fmt: skip


def trial(config="a", *, shipped=False, kernel="forward", table="plain", head_dim=128):
    dtypes = ("bfloat16", "float16")
    return Trial(kernel, table, head_dim, dtypes, config, shipped)


def outcome(config="a", full=(), causal=(), verdict=Status.OK, reason="", **changes):
    """Of times in microseconds: a number for what took that long in every round."""
    full, causal = ((x,) * 7 if isinstance(x, float) else x for x in (full, causal))
    subject = TypedTrial(trial=trial(config, **changes), dtype="bfloat16")
    return Outcome(
        subject=subject, verdict=verdict, provenance=PLACE, shape=TimedShape(), reason=reason,
        full=full, causal=causal,
    )  # fmt: skip


def advice(*outcomes):
    (choice,) = choices(outcomes)
    return choice.advice.partition(": ")[2]


def wrong(config, **changes):
    return outcome(config, verdict=Status.WRONG, reason="out is out by 1", **changes)


def test_the_fastest_has_the_least_geometric_mean_of_both_masks():
    full, causal = outcome("full", 100.0, 100.0), outcome("causal", 120.0, 70.0)

    for order in ((full, causal), (causal, full)):
        assert choices(order)[0].fastest == causal


def test_a_row_keeps_what_it_has_unless_something_is_a_hundredth_faster():
    shipped = outcome("old", 100.0, 50.0, shipped=True)

    assert advice(shipped, outcome("new", 101.0, 51.0)) == "keep old"
    assert advice(shipped, outcome("new", 99.5, 49.75)).startswith("keep old (new is 0.5% faster")
    assert advice(shipped, outcome("new", 80.0, 40.0)) == ("shipped old, new would be 25.0% faster")


def test_what_is_not_right_is_not_advised_however_the_others_fare():
    shipped = outcome("old", 100.0, 50.0, shipped=True)

    assert advice(shipped, wrong("new")) == "keep old"
    assert advice(wrong("old", shipped=True), outcome("new", 1.0, 1.0)) == (
        "shipped old has no speed (wrong); new is the fastest that is right"
    )
    assert advice(wrong("old", shipped=True), wrong("new")) == "nothing is right"
    assert advice(wrong("old", shipped=True), outcome("new")) == (
        "shipped old: wrong; 1 right, none timed"
    )


def test_rows_are_chosen_for_one_by_one():
    rows = [
        outcome("a", 9.0, 9.0, shipped=True),
        outcome("a", 1.0, 1.0, head_dim=64),
        outcome("b", 8.0, 8.0),
        outcome("a", 7.0, 7.0, table="hopper", shipped=True),
    ]
    found = {x.key[1:3]: x.fastest for x in choices(rows)}

    assert found == {("plain", 128): rows[2], ("plain", 64): rows[1], ("hopper", 128): rows[3]}


def test_a_trial_that_is_not_right_cannot_have_a_speed():
    with pytest.raises(ValidationError, match="that is wrong has no speed"):
        outcome("a", 1.0, 1.0, verdict=Status.WRONG)


def test_the_pace_counts_the_pairs_that_the_mask_allows_and_the_kernels_own_products():
    forward, dkdv = outcome("a", 1e6, 1e6), outcome("a", 1e6, 1e6, kernel="backward_dkdv")
    pairs = 16384**2 * 16

    assert forward.tflops("full") * 1e12 == pytest.approx(4 * pairs * 128)
    assert forward.tflops("causal") * 1e12 == pytest.approx(4 * 16384 * 16385 / 2 * 16 * 128)
    assert dkdv.tflops("full") == pytest.approx(2 * forward.tflops("full"))


def test_outcomes_come_back_from_the_file_as_they_were(tmp_path):
    """But for the dtypes that a row serves beside the one that was tuned."""
    times = tuple(float(x) for x in range(100, 107))
    kept = [outcome("a", times, times[::-1], shipped=True), wrong('b, "c"\n')]
    csv.write(kept, tmp_path / "tuning.csv")
    found = csv.read(tmp_path)

    def lines(outcomes):
        return [csv.cells(x) for x in outcomes]

    assert lines(found) == lines(kept)
    assert found[0].full == times
    first = csv.cells(found[0])
    assert (first["full_us"], first["full_low_us"], first["full_high_us"]) == (
        "103.00", "100.00", "106.00",
    )  # fmt: skip
    assert csv.cells(found[1])["full_us"] == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("backend,kernel\ntriton,forward\n", "no column"),
        ("backend,kernel\n", "holds no outcomes"),
        (None, "cannot read"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path, text, why):
    if text is not None:
        (tmp_path / "tuning.csv").write_text(text)
    with pytest.raises(InvalidArgument, match=why):
        csv.read(tmp_path)


def test_a_file_whose_wrong_trial_has_times_is_refused(tmp_path):
    csv.write([outcome("a", 100.0, 50.0)], tmp_path / "tuning.csv")
    path = tmp_path / "tuning.csv"
    path.write_text(path.read_text().replace(",ok,", ",wrong,"))
    with pytest.raises(InvalidArgument, match="has no speed"):
        csv.read(path)


def test_the_table_fits_a_terminal_and_cites_reasons_and_marks_the_fastest():
    rows = [
        outcome("192x128 w4 s2 tma", 12345.0, 6789.0, kernel="backward_dkdv", table="hopper"),
        outcome("128x128 w4 s2", 23456.0, 9876.0, kernel="backward_dkdv", table="hopper"),
        outcome("64x64 w4 s3", verdict=Status.ERROR, reason="out of resource: " + "shared " * 30),
    ]
    text = tuning.terminal(rows)

    assert max(map(len, text.splitlines())) <= 100
    assert len(re.findall(r"ok, fastest", text)) == 1
    assert re.search(r"192x128 w4 s2 tma +ok, fastest +12345 +6789", text)
    assert re.search(r"64x64 w4 s3 +error \[1\]$", text, re.MULTILINE)
    assert "[1] out of resource: shared" in text


def test_the_page_has_a_line_for_each_trial_and_says_where_it_was_found():
    page = tuning.page([outcome("a", 100.0, 50.0, shipped=True), wrong("b")])

    assert "NVIDIA H200, torch 2.11.0, triton 3.6.0" in page
    assert re.search(r"\| plain forward +\| 128 +\| a +\| yes +\| ok, fastest +\|", page)
    assert re.search(r"\| plain forward +\| 128 +\| b +\| +\| wrong \[1\]", page)
    assert "- plain forward, head dim 128, bfloat16: keep a" in page


def test_only_shipped_ones_that_are_not_right_make_the_run_fail():
    right, bad = outcome("a", 1.0, 1.0, shipped=True), wrong("b")

    assert tuning.shipped_failures([right, bad]) == 0
    assert tuning.shipped_failures([right, bad, wrong("c", shipped=True)]) == 1


def test_a_row_is_tried_in_its_first_dtype_unless_another_is_asked_for():
    trials = [trial("a"), trial("b", head_dim=64)]

    assert [x.dtype for x in TrialSelection().of(trials)] == ["bfloat16", "bfloat16"]
    (found,) = TrialSelection(head_dims=(64,), dtypes=("float16",)).of(trials)
    assert (found.trial, found.dtype) == (trials[1], "float16")


def test_names_that_exist_but_not_together_are_refused():
    trials = [trial("a"), trial("b", kernel="backward_dq", head_dim=64)]
    with pytest.raises(InvalidArgument, match="all that was asked for at once"):
        TrialSelection(kernels=("forward",), head_dims=(64,)).of(trials)
