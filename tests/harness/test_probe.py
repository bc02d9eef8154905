"""`probe`: what each backend can do, found out in processes that may die of it."""

import re
import signal

import pytest

from ring_attn_bench.records.finding import read
from tests.harness.conftest import processes_of, wait_until
from tests.patience import limit


@pytest.fixture
def probe(program):
    """Runs `probe` over backends and features, in words; gives the finished program."""

    def run(backends, features, *options):
        words = [f"--backend={name}" for name in backends.split()]
        words += [f"--feature={name}" for name in features.split()]
        return program.run("probe", *words, *options, "--out", str(program.out))

    return run


def statuses(program):
    """By backend and feature, the statuses forward and backward."""
    found = {}
    for x in read(program.out):
        found.setdefault((x.backend, x.feature), []).append(x.verdict.value)
    return {key: " ".join(both) for key, both in found.items()}


def reasons(program):
    return {(x.backend, x.feature, x.direction.value): x.reason for x in read(program.out)}


def test_a_crash_or_a_hang_costs_the_feature_that_ran_and_nothing_else(program, probe):
    done = probe(
        "illegal_access hang_on_softcap log2_lse out_of_memory reference",
        "causal window_causal softcap gqa",
        f"--seconds={limit(15):g}", "--jobs=3",
    )  # fmt: skip

    assert done.returncode == 1, done.stderr
    found = statuses(program)
    assert len(found) == 20
    wrong = {key: both for key, both in found.items() if both != "ok ok"}
    assert wrong == {
        ("illegal_access", "window_causal"): "error ok",
        ("hang_on_softcap", "softcap"): "timeout ok",
        **{("log2_lse", x): "wrong ok" for x in ("causal", "window_causal", "softcap", "gqa")},
        **{("out_of_memory", x): "oom ok" for x in ("causal", "window_causal", "softcap", "gqa")},
    }
    why = reasons(program)
    assert "SIGSEGV" in why["illegal_access", "window_causal", "forward"]
    assert "what a crash leaves behind" in why["illegal_access", "window_causal", "forward"]
    assert f"{limit(15):g} s" in why["hang_on_softcap", "softcap", "forward"]
    assert "base 2" in why["log2_lse", "causal", "forward"]
    assert "out of memory: planted" in why["out_of_memory", "causal", "forward"]


def test_the_matrix_is_a_table_a_page_a_picture_and_a_file_in_the_order_of_the_table(
    program, probe
):
    done = probe("reference aten", "dropout causal float64", "--jobs=2")

    assert done.returncode == 0, done.stdout + done.stderr
    order = [(x.backend, x.feature, x.direction.value) for x in read(program.out)]
    assert order == [
        (backend, feature, direction)
        for backend in ("aten", "reference")
        for feature in ("causal", "dropout", "float64")
        for direction in ("forward", "backward")
    ]
    assert re.search(r"^  dropout +- +✓$", done.stdout, re.MULTILINE)
    assert "12 findings: 10 ok, 2 unsupported." in done.stdout
    assert (program.out / "coverage.png").read_bytes()[1:4] == b"PNG"
    page = (program.out / "coverage.md").read_text()
    assert "![coverage](coverage.png)" in page
    assert re.search(r"^- \*\*unsupported\*\* dropout: it.* dropout", page, re.MULTILINE)
    first = read(program.out)[0]
    assert first.version.startswith("torch ")
    assert first.torch
    assert first.device


def test_a_backend_that_cannot_be_loaded_has_a_reason_in_every_row(program, probe):
    done = probe("unimportable crash_on_load reference", "causal gqa")

    assert done.returncode == 1  # for the crash
    found, why = statuses(program), reasons(program)
    for feature in ("causal", "gqa"):
        assert found["unimportable", feature] == "unsupported unsupported"
        assert found["crash_on_load", feature] == "error error"
        assert found["reference", feature] == "ok ok"
    assert "unavailable: importing planted_backends" in why["unimportable", "causal", "forward"]
    assert (
        "when it was loaded, the process died (SIGABRT)" in why["crash_on_load", "gqa", "forward"]
    )
    assert "unavailable: importing" in (program.out / "coverage.md").read_text()


def test_a_backend_that_never_answers_is_not_asked_for_ever(program, probe):
    features = "full causal gqa mqa softcap batch"
    done = probe("hang", features, f"--seconds={limit(4):g}", "--jobs=1")

    assert done.returncode == 1
    assert set(statuses(program).values()) == {"timeout ok"}
    why = reasons(program).values()
    assert sum(f"no answer within {limit(4):g} s" in reason for reason in why) == 4
    assert sum("not asked" in reason for reason in why) == 2


def test_a_name_that_there_is_not_is_exit_code_2_and_one_that_cannot_run_is_3(program, probe):
    for backend, feature in (("reference", "sofcap"), ("referense", "softcap")):
        done = probe(backend, feature)
        assert done.returncode == 2
        assert "Did you mean" in done.stderr
    assert probe("unimportable", "causal").returncode == 3
    assert program.run("check", "--feature", "causal").returncode == 2


ENDS = [
    pytest.param(signal.SIGKILL, id="killed"),
    pytest.param(signal.SIGTERM, id="terminated", marks=pytest.mark.full),
]


@pytest.mark.parametrize("how", ENDS)
def test_what_was_found_before_a_probe_is_ended_is_kept(program, how):
    words = ["--backend=reference", "--backend=hang", "--feature=causal", "--seconds=200"]
    started = program.start("probe", *words, "--jobs=2", "--out", str(program.out))
    wait_until(lambda: (program.out / "coverage.csv").exists() and len(read(program.out)) == 2)
    workers = _workers(program)

    started.send_signal(how)
    started.wait(timeout=limit(60))

    assert statuses(program) == {("reference", "causal"): "ok ok"}
    shown = program.run("coverage", "show", str(program.out), "--out", str(program.out))
    assert shown.returncode == 0, shown.stderr
    assert (program.out / "coverage.png").exists()
    wait_until(lambda: not workers & _workers(program), seconds=20)


def test_two_matrices_are_compared_by_their_statuses(program, probe):
    probe("reference", "causal softcap")
    other = program.folder / "other.csv"
    text = (program.out / "coverage.csv").read_text()
    other.write_text(text.replace("softcap,forward,ok,", "softcap,forward,wrong,it is out"))

    same = program.run("coverage", "diff", str(program.out), str(program.out / "coverage.csv"))
    differ = program.run("coverage", "diff", str(program.out), str(other))

    assert same.returncode == 0
    assert "the same" in same.stdout
    assert differ.returncode == 1
    assert "reference softcap forward: ok -> wrong (it is out)" in differ.stdout


def _workers(program):
    return processes_of("ring_attn_bench.probe.serve", program)
