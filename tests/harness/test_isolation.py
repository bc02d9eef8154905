"""What one backend does to itself costs no other backend anything."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(280)


def test_a_crash_a_hang_and_an_error_become_rows_and_the_rest_goes_on(program):
    suite = program.suite(
        *("crash", "hang", "raise_on_one_rank", "out_of_memory", "wrong", "reference"),
        case_seconds=8,
    )

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 1, done.stderr
    records = program.records()
    assert len(records) == 12
    status = {key: record.status.value for key, record in records.items()}
    assert status["crash", "forward"] == "error"
    assert "SIGABRT" in records["crash", "forward"].reason.upper().replace("SIGNAL 6", "SIGABRT")
    assert status["hang", "forward"] == "timeout"
    assert "8 s" in records["hang", "forward"].reason
    assert status["raise_on_one_rank", "backward"] == "error"
    assert "rank 1 has had enough" in records["raise_on_one_rank", "backward"].reason
    assert any("had enough" in line for line in records["raise_on_one_rank", "forward"].stderr)
    assert status["out_of_memory", "forward"] == "oom"
    assert status["wrong", "forward"] == "wrong"
    assert records["wrong", "forward"].speed is None
    assert "out (" in records["wrong", "forward"].reason
    assert status["reference", "forward"] == status["reference", "backward"] == "ok"
    assert len(records["reference", "forward"].speed.samples.ring) == 3
    assert all(len(call) == 2 for call in records["reference", "forward"].speed.samples.ring)
    assert (program.out / "results.csv").exists()
    assert "planted: rank 1" in (program.out / "report.md").read_text()


def test_a_crash_while_timing_keeps_the_contestants_that_share_the_case(program):
    suite = program.suite("crash_when_timed", "reference", "aten")

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 1
    records = program.records()
    assert records["crash_when_timed", "forward"].status.value == "error"
    for backend in ("reference", "aten"):
        assert records[backend, "forward"].status.value == "ok"
        assert records[backend, "backward"].speed is not None


def test_what_a_backend_refuses_is_an_answer_and_not_a_failure(program):
    suite = program.suite("no_backward", "unimportable", "reference")

    done = program.run("bench", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 0, done.stdout + done.stderr
    records = program.records()
    assert records["no_backward", "forward"].status.value == "ok"
    assert records["no_backward", "backward"].status.value == "unsupported"
    assert records["no_backward", "backward"].reason == "it has no backward"
    assert "ModuleNotFoundError" in records["unimportable", "forward"].reason


def test_determinism_that_is_asked_for_is_checked(program):
    suite = program.suite("unstable", "reference", deterministic=True)

    done = program.run("check", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 1
    records = program.records()
    assert records["unstable", "forward"].status.value == "wrong"
    assert "different bits" in records["unstable", "forward"].reason
    assert records["reference", "forward"].status.value == "ok"
    assert records["reference", "forward"].speed is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_a_run_that_is_ended_leaves_its_records_and_no_processes(program, how):
    suite = program.suite("reference", "hang", case_seconds=100)
    started = program.start("check", "--suite", str(suite), "--out", str(program.out))
    records = program.out / "records.jsonl"
    # the reference is done, and the group that hangs is up: two groups of two
    _wait(lambda: records.exists() and len(records.read_text().splitlines()) == 2)
    _wait(lambda: len(_workers()) >= 4)
    workers = _workers()

    started.send_signal(how)
    started.wait(timeout=60)

    report = program.run("report", str(program.out))
    assert report.returncode == 0, report.stderr
    assert "reference" in (program.out / "report.md").read_text()
    _wait(lambda: not any(map(_alive, workers)), seconds=20)


def test_a_rank_that_is_killed_costs_its_row_and_not_the_run(program):
    suite = program.suite("hang", "reference", case_seconds=100)
    started = program.start("check", "--suite", str(suite), "--out", str(program.out))
    _wait(lambda: len(_workers()) >= 2)
    time.sleep(3)  # into the middle of its work

    os.kill(min(_workers()), signal.SIGKILL)
    started.wait(timeout=60)

    assert started.returncode == 1
    records = program.records()
    assert records["hang", "forward"].status.value == "error"
    assert "died" in records["hang", "forward"].reason
    assert records["reference", "forward"].status.value == "ok"
    assert (program.out / "report.md").exists()


def _workers():
    """Process ids of worker processes on this machine."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names are enough
        try:
            with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123
                words = file.read().split("\0")
        except OSError:
            continue
        if "ring_attn_bench.bench.serve" in words and "torch.distributed.run" not in words:
            found.add(int(pid))
    return found


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
