"""What one backend does to itself costs no other backend anything."""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.conftest import processes_of, wait_until
from tests.patience import limit


def test_a_crash_a_hang_and_an_error_become_rows_and_the_rest_goes_on(failing):
    assert failing.done.returncode == 1, failing.done.stderr
    records = failing.records
    assert len(records) == 18
    status = {key: record.status.value for key, record in records.items()}
    assert status["crash", "forward"] == "error"
    assert "SIGABRT" in records["crash", "forward"].reason.upper().replace("SIGNAL 6", "SIGABRT")
    assert "traceback" not in records["crash", "forward"].reason  # a crash leaves none
    assert status["crash_on_import", "forward"] == "error"  # by the first rank that dies of it
    assert status["hang", "forward"] == "timeout"
    assert f"{limit(16):g} s" in records["hang", "forward"].reason
    assert status["raise_on_one_rank", "backward"] == "error"
    assert "rank 1 has had enough" in records["raise_on_one_rank", "backward"].reason
    assert any("had enough" in line for line in records["raise_on_one_rank", "forward"].stderr)
    assert status["out_of_memory", "forward"] == "oom"
    said = "out of memory: planted: tried to allocate 1 PiB"  # as probe and tune say it
    assert records["out_of_memory", "forward"].reason == said
    assert status["wrong", "forward"] == "wrong"
    assert records["wrong", "forward"].speed is None
    assert "out (" in records["wrong", "forward"].reason
    assert status["reference", "forward"] == status["reference", "backward"] == "ok"
    assert len(records["reference", "forward"].speed.samples.ring) == 3
    assert all(len(call) == 2 for call in records["reference", "forward"].speed.samples.ring)
    assert (failing.out / "results.csv").exists()
    assert list(failing.program.temporary.iterdir()) == []
    assert "planted: rank 1" in (failing.out / "report.md").read_text()


def test_a_crash_while_timing_keeps_the_contestants_that_share_the_case(failing):
    records = failing.records
    assert records["crash_when_timed", "forward"].status.value == "error"
    for backend in ("reference", "aten"):
        assert records[backend, "forward"].status.value == "ok"
        assert records[backend, "backward"].speed is not None


def test_what_a_backend_refuses_is_an_answer_and_not_a_failure(refusing):
    assert refusing.done.returncode == 0, refusing.done.stdout + refusing.done.stderr
    records = refusing.records
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


ENDS = [
    pytest.param(signal.SIGKILL, id="killed"),
    pytest.param(signal.SIGINT, id="interrupted", marks=pytest.mark.full),
    pytest.param(signal.SIGTERM, id="terminated", marks=pytest.mark.full),
]


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_is_ended_leaves_its_records_and_no_processes(program, how):
    suite = program.suite("reference", "hang", case_seconds=100)
    started = program.start("check", "--suite", str(suite), "--out", str(program.out))
    records = program.out / "records.jsonl"
    # the reference is done, and the group that hangs is up: two groups of two
    wait_until(lambda: records.exists() and len(records.read_text().splitlines()) == 2)
    wait_until(lambda: len(_workers(program)) >= 4)
    workers = _workers(program)
    assert listening(workers) == {"127.0.0.1"}
    torchruns = processes_of("ring_attn_bench.workers.agent", program)
    assert len(torchruns) == 2

    started.send_signal(how)
    started.wait(timeout=limit(60))

    report = program.run("report", str(program.out))
    assert report.returncode == 0, report.stderr
    assert "reference" in (program.out / "report.md").read_text()
    wait_until(lambda: not any(map(_alive, workers | torchruns)), seconds=20)
    wait_until(lambda: not list(program.temporary.iterdir()), seconds=20)


def test_a_rank_that_is_killed_costs_its_row_and_not_the_run(program):
    suite = program.suite("hang", "reference", case_seconds=100)
    started = program.start("check", "--suite", str(suite), "--out", str(program.out))
    wait_until(lambda: len(_workers(program)) >= 2)
    time.sleep(limit(3))  # into the middle of its work

    os.kill(min(_workers(program)), signal.SIGKILL)
    started.wait(timeout=limit(60))

    assert started.returncode == 1
    records = program.records()
    assert records["hang", "forward"].status.value == "error"
    assert "died" in records["hang", "forward"].reason
    assert records["reference", "forward"].status.value == "ok"
    assert (program.out / "report.md").exists()


def test_a_worker_that_leaves_as_if_all_were_well_is_an_error_with_its_exit_code(program):
    suite = program.suite("leave", "leave_at_once")

    done = program.run("check", "--suite", str(suite), "--out", str(program.out))

    assert done.returncode == 1, done.stderr
    records = program.records()
    for backend in ("leave", "leave_at_once"):
        assert records[backend, "forward"].status.value == "error"
        assert "exit code 0" in records[backend, "forward"].reason
        assert "**" not in records[backend, "forward"].reason


def _workers(program):
    return processes_of("ring_attn_bench.bench.serve", program)


def listening(pids):
    """The addresses at which these processes wait for connections."""
    sockets, found = set(), set()
    for entry in (entry for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(OSError):  # it has been closed since
            sockets.add(entry.readlink().name)
    for name, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in sockets:
                words = bytes.fromhex(local.partition(":")[0])
                turned = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add(socket.inet_ntop(kind, turned))
    return found


LISTEN = "0A"
"""As /proc/net writes that state."""


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
