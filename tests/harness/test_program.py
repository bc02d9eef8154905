"""The verbs, as a person types them: exit codes, sentences and files."""

import json
import signal
import subprocess

from tests.harness.conftest import processes_of, wait_until
from tests.patience import limit


def test_under_torchrun_the_bench_runs_in_place_and_says_so(program):
    suite = program.suite("reference", "aten", "wrong")

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out), processes=2)

    assert "not isolated" in done.stdout
    records = program.records()
    assert {key: r.status.value for key, r in records.items() if key[1] == "forward"} == {
        ("reference", "forward"): "ok",
        ("aten", "forward"): "ok",
        ("wrong", "forward"): "wrong",
    }
    assert records["aten", "forward"].case.world_size == 2
    told = records["aten", "forward"].predicted  # by each rank's plan, where nobody can measure it
    assert len(told.call_bytes) == 2
    assert min(told.call_bytes) > 0
    assert done.stdout.count("suite planted") == 1  # rank 0 alone speaks


def test_a_torchrun_that_is_terminated_says_what_is_kept_and_how_to_go_on(program):
    suite = program.suite("reference", "hang", case_seconds=100)
    started = subprocess.Popen(
        program.command("check", "--suite", str(suite), "--out", str(program.out), processes=2),
        stderr=subprocess.PIPE, text=True, cwd=program.folder, env=program.environment,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    records = program.out / "records.jsonl"
    try:
        wait_until(lambda: records.exists() and records.read_text().count("\n") == 2)
    finally:
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=limit(60))

    assert "2 records are kept in" in said
    assert "To go on:  torchrun --nproc-per-node=2 -m ring_attn_bench check" in said
    assert "this is a bug" not in said
    assert "TeamLost" not in said
    wait_until(lambda: not processes_of("ring_attn_bench", program), seconds=20)


def test_list_shows_every_backend_and_why_one_cannot_run(listing):
    assert listing.returncode == 0
    assert "planted_backends_that_are_not_there" in listing.stdout
    for name in ("reference", "aten", "triton", "crash"):
        assert name in listing.stdout
    assert listing.stdout.count("when it was loaded, the process died (SIGABRT)") == 2


def test_env_says_what_is_missing_and_the_command_that_installs_it(program):
    done = program.run("env")

    assert done.returncode == 0
    assert "torch" in done.stdout
    assert "pip install" in done.stdout


def test_a_mistake_in_the_suite_is_one_sentence_and_exit_code_2(program):
    suite = program.suite("reference")
    suite.write_text(suite.read_text().replace("partitions", "partition"))

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 2
    assert "unknown key 'partition'. Did you mean 'partitions'?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not program.out.exists()


def test_a_backend_asked_for_by_name_that_cannot_run_is_exit_code_3(program):
    done = program.run("bench", "--backend", "unimportable", "--out", str(program.out))

    assert done.returncode == 3
    assert "unimportable" in done.stderr


def test_an_unknown_option_is_exit_code_2(program):
    assert program.run("bench", "--sweet", "cpu").returncode == 2


def test_a_selection_of_nothing_is_exit_code_2(program):
    suite = program.suite("reference")

    done = program.run("bench", "--suite", str(suite), "--case", "nothing like it")

    assert done.returncode == 2
    assert "nothing to run" in done.stderr


def test_quick_is_right_on_every_backend_and_partition(program):
    # Triton's, interpreted, takes 8 s: `.ci/run` asks all of them, with the wheel
    done = program.run("quick", "--backend", "reference", "--backend", "aten")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok: ") == 6


def test_quick_fails_on_a_wrong_backend(program):
    done = program.run("quick", "--backend", "wrong")

    assert done.returncode == 1
    assert "WRONG" in done.stdout


def test_the_command_in_a_record_measures_that_record_again(failing):
    program, words = failing.program, failing.records["aten", "forward"].command.split()

    again = program.run(*words[1:], "--out", str(program.folder / "again"))

    assert again.returncode == 0, again.stderr
    lines = (program.folder / "again" / "records.jsonl").read_text().splitlines()
    assert {json.loads(found)["contestant"]["backend"] for found in lines} == {"aten"}
