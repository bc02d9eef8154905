"""`tune`: configurations verified in processes that may die of it, and the right ones timed."""

import re

import pytest

from ring_attn_bench.records.outcome import read
from tests.patience import limit


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, program_in):
    """One run over all that is planted."""
    program = program_in(tmp_path_factory.mktemp("tune"))
    done = program.run(
        "tune", "tunable", "--seqlen=96", "--heads=2:1", "--rounds=7", "--jobs=2",
        f"--seconds={limit(5):g}", "--out", str(program.out),
    )  # fmt: skip
    return program, done


def outcomes(program, table="one"):
    found = read(program.out)
    return {x.subject.trial.config: x for x in found if x.subject.trial.table == table}


def test_what_fails_has_a_verdict_a_reason_and_no_speed(tuned):
    program, done = tuned
    found = outcomes(program)

    assert done.returncode == 1, done.stdout + done.stderr  # a shipped one dies when it is timed
    assert {name: x.verdict.value for name, x in found.items()} == {
        "shipped": "ok", "quick": "ok", "wrong": "wrong", "unwritten": "wrong", "raises": "error",
        "hangs": "timeout", "dies": "error",
    }  # fmt: skip
    assert {name for name, x in found.items() if x.is_timed} == {"shipped", "quick"}
    assert "full-float32: out is out by" in found["wrong"].reason
    assert "two blocks" in found["unwritten"].reason
    assert "RuntimeError: planted: out of resource" in found["raises"].reason
    assert f"no answer within {limit(5):g} s" in found["hangs"].reason
    assert "SIGABRT" in found["dies"].reason


def test_the_fastest_of_what_is_right_is_named_with_what_it_would_gain(tuned):
    program, done = tuned
    found = outcomes(program)

    for name, longest in (("shipped", None), ("quick", 20e3)):
        for times in (found[name].full, found[name].causal):
            assert len(times) == 7
            assert longest or min(times) > 20e3
    gain = found["shipped"].mean / found["quick"].mean - 1
    advice = f"one forward, head dim 16, float32: shipped shipped, quick would be {gain:.1%} faster"
    assert advice in done.stdout
    assert re.search(r"one forward +16 +quick +ok, fastest +\d+ +\d+", done.stdout)
    assert max(map(len, done.stdout.partition("\n\n")[2].splitlines())) <= 100


def test_a_crash_while_a_row_is_timed_costs_that_row_alone(tuned):
    program, _ = tuned
    lost, kept = outcomes(program, "three"), read(program.out)

    assert len(lost) == 2
    for outcome in lost.values():
        assert outcome.verdict.value == "error"
        assert "when its row was timed, the process died (SIGABRT)" in outcome.reason
    two = [x for x in kept if x.subject.trial.table == "two"]
    assert [x.subject.trial.kernel for x in two] == ["forward", "backward_dq", "backward_dkdv"]
    assert all(x.is_timed for x in two)


def test_the_page_and_the_data_say_where_it_was_found(tuned):
    program, done = tuned
    page = (program.out / "tuning.md").read_text()
    first = read(program.out)[0]

    assert "the table four is left out: planted" in done.stdout
    assert "| one forward" in page
    assert "- one forward, head dim 16, float32: shipped shipped, quick would be" in page
    assert first.provenance.backend == "tunable"
    assert first.provenance.device
    assert first.provenance.torch
    assert str(first.shape) == "1 x 96 tokens, heads 2:1"


def test_only_what_is_asked_for_is_tried_and_in_the_dtype_asked_for(program):
    done = program.run(
        "tune", "tunable", "--kernel=backward_dq", "--dtype=float64", "--seqlen=32", "--heads=1:1",
        "--rounds=1", "--out", str(program.out),
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = read(program.out)
    assert (outcome.subject.trial.kernel, outcome.subject.dtype) == ("backward_dq", "float64")
    assert outcome.is_timed


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("reference", 2, "offers no configurations to tune; those that do:"),
        ("tunabel", 2, "Did you mean 'tunable'?"),
        ("tunable --head-dim=80", 2, "no head dim 80 to tune here; there are: 16."),
        ("tunable --dtype=bfloat16", 2, "there are: float32, float64."),
        ("tunable --heads=16", 2, "as 16:4 (got '16')"),
        ("tunable --heads=6:4", 2, "8:4 would do"),
        ("unimportable", 3, "importing planted_backends"),
        ("crash_on_import", 3, "when it was loaded, the process died (SIGABRT)"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_a_sentence(program, words, code, sentence):
    done = program.run("tune", *words.split(), "--out", str(program.out))

    assert done.returncode == code
    assert sentence in done.stderr
    assert not program.out.exists()


@pytest.mark.full  # interpreted, it takes 11 s
def test_triton_is_verified_where_it_interprets_and_has_no_speed_there(program):
    pytest.importorskip("triton")
    program.environment["CUDA_VISIBLE_DEVICES"] = ""
    done = program.run(
        "tune", "triton", "--kernel=forward", "--head-dim=64", "--dtype=float16", "--jobs=2",
        "--out", str(program.out),
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = read(program.out)
    assert len(found) >= 4
    assert {x.verdict.value for x in found} == {"ok"}
    assert not any(x.is_timed for x in found)
    assert "no speed is measured: Triton interprets" in done.stdout
    assert "TFLOP/s" not in done.stdout
